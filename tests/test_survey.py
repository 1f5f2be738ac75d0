"""A survey of models: figures, marks, pairs of tasks, and what is left out with which reason."""

import gc
import json
import shutil
from functools import cache
from html import unescape
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel
from typer import Typer
from typer.testing import CliRunner

import circuitlapse as cl
from circuitlapse.api.task_screening import (
    Form,
    form_distance,
    form_of,
    mark_of,
    smallest_master,
    suggested_pairs,
)
from circuitlapse.cli.survey import survey as command
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.records.survey import LeftOut, ModelSurvey, Survey, TaskFigures, TaskPair
from circuitlapse.report.pages.small_pages import render_survey
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.words import NAMES
from test_battery import without

APP = Typer()
APP.command()(command)
FORM = cache(lambda name: form_of(TASKS[name]))


def _between(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high)


def _figures(task: str, low: float, high: float, chance: float = 0.5) -> TaskFigures:
    among = _between(low, high)
    return TaskFigures(
        task=task,
        prompts=8,
        chance=chance,
        accuracy=among,
        candidate_accuracy=among,
        logit_diff=_between(-1, 1),
        mark=mark_of(among, chance),
    )


def _model(name: str, parameters: int, *figures: TaskFigures) -> ModelSurvey:
    return ModelSurvey(
        model=name, parameters=parameters, tasks=list(figures), left_out=[], pairs=[]
    )


@pytest.mark.parametrize(
    ("low", "high", "chance", "mark"),
    [
        (0.90, 0.99, 1 / 2, "mastered"),
        (0.89, 1.00, 1 / 2, "partial"),  # the point value would master it
        (0.60, 0.75, 1 / 2, "failed"),
        (0.60, 0.75, 1 / 3, "partial"),  # of three, halfway is two in three
        (0.10, 0.60, 1 / 3, "failed"),
        (0.00, 0.10, 1 / 2, "failed"),  # worse than chance
        (0.20, 1.00, 1 / 2, "partial"),  # too few prompts
    ],
)
def test_grades_follow_the_ends_of_the_interval(low, high, chance, mark) -> None:
    assert mark_of(_between(low, high), chance) == mark


def test_pairs_are_of_a_mastered_and_an_open_task_with_a_common_counterfactual() -> None:
    figures = [
        _figures("ioi2", 0.95, 1.0),
        _figures("leave2", 0.92, 1.0),
        _figures("ioi3", 0.3, 0.5, 1 / 3),
        _figures("ioi3_apart", 0.68, 0.74, 1 / 3),  # partial
        _figures("ioi3_home", 0.7, 0.8, 1 / 3),  # a run would call this one mastered already
        _figures("induction", 0.1, 0.2, 1 / 8),  # no counterfactual type in common
    ]
    tasks = {each.task: TASKS[each.task] for each in figures}
    pairs = suggested_pairs(figures, tasks, FORM)
    assert [(pair.old, pair.new) for pair in pairs] == [
        ("ioi2", "ioi3"),
        ("ioi2", "ioi3_apart"),
        ("leave2", "ioi3_apart"),
        ("leave2", "ioi3"),
    ]
    assert all(pair.families == ["subject", "names"] for pair in pairs)


def test_the_smallest_that_masters_a_task_goes_by_parameters() -> None:
    models = [
        _model("large", 300, _figures("ioi3", 0.95, 1)),
        _model("medium", 200, _figures("ioi3", 0.91, 1)),
        _model("small", 100, _figures("ioi3", 0.5, 0.7), _figures("ioi2", 0.91, 1)),
    ]
    assert smallest_master(models, "ioi3") == "medium"
    assert smallest_master(models, "ioi2") == "small"
    assert smallest_master(models, "pass3") is None


def test_distance_in_form_is_worked_out_by_hand() -> None:
    two = Form(frozenset({"IO", "S", "END"}), 2, frozenset({"then", "gave", "to"}))
    three = Form(frozenset({"IO", "S", "END"}), 3, frozenset({"then", "gave", "for", "to"}))
    other = Form(frozenset({"STAYS", "END"}), 2, frozenset())
    assert form_distance(two, three) == form_distance(three, two) == 1 + 1 / 4
    assert form_distance(two, other) == 3 + 1
    assert form_distance(other, other) == 0


def test_the_battery_is_near_where_a_reader_would_say_so() -> None:
    forms = {name: FORM(name) for name in ("ioi2", "ioi3", "ioi3_home", "leave2")}
    assert forms["ioi3"].kinds == {"IO", "S", "S_again", "END"}
    assert (forms["ioi2"].people, forms["ioi3"].people, forms["ioi3_home"].people) == (2, 3, 3)
    assert {"gave", "went"} <= forms["ioi2"].words
    assert not {"mary", "john", "store"} & forms["ioi2"].words  # names and fillers
    apart = {name: form_distance(forms["ioi2"], form) for name, form in forms.items()}
    assert sorted(apart, key=lambda name: apart[name]) == ["ioi2", "ioi3", "ioi3_home", "leave2"]
    assert apart["ioi3"] == 1  # the same wordings and roles, one person more


@pytest.fixture(scope="module")
def surveyed(tiny_model: Path) -> Survey:
    return cl.survey(tiny_model, ["ioi2", "ioi3", "bought_more"], prompts=24)


def test_figures_are_those_of_the_models_own_answers(tiny_model: Path, surveyed: Survey) -> None:
    (found,) = surveyed.models
    loaded = cl.load_model(tiny_model)
    assert found.parameters == loaded.hf.num_parameters()
    for task, chance in (("ioi2", 1 / 2), ("ioi3", 1 / 3)):
        items = cl.get_task(task).items("test", 24)
        shown = behaviour(loaded, cl.tokenize(items, loaded.tokenizer, "names"))
        figures = found.figures(task)
        assert figures is not None
        assert figures.chance == pytest.approx(chance)
        assert figures.accuracy == proportion_interval(int(shown.correct.sum()), 24)
        assert figures.candidate_accuracy == proportion_interval(
            int(shown.candidate_correct.sum()), 24
        )
        assert figures.logit_diff == mean_interval(shown.logit_diff.astype(np.float64))
        assert figures.mark == mark_of(figures.candidate_accuracy, figures.chance)
    assert not any(each.mark == "mastered" for each in found.tasks)  # a random model
    assert found.pairs == []
    assert surveyed.smallest == dict.fromkeys(["ioi2", "ioi3", "bought_more"])
    assert cl.survey([tiny_model], ["ioi2", "ioi3", "bought_more"], prompts=24) == surveyed


def test_a_survey_is_kept_as_json_and_as_a_frame(surveyed: Survey) -> None:
    assert Survey.model_validate_json(surveyed.model_dump_json()) == surveyed
    frame = surveyed.to_frame()
    assert sorted(frame["task"]) == ["ioi2", "ioi3"]
    row = frame.row(by_predicate=pl.col("task") == "ioi3", named=True)
    figures = surveyed.models[0].figures("ioi3")
    assert figures is not None
    assert row["candidate_accuracy"] == figures.candidate_accuracy.value
    assert row["logit_diff_high"] == figures.logit_diff.high
    assert row["mark"] == figures.mark


def test_what_a_tokenizer_cannot_spell_is_left_out_and_the_rest_is_asked(
    tiny_model: Path, tmp_path: Path
) -> None:
    kept = shutil.copytree(tiny_model, tmp_path / "few-names")
    whole = AutoTokenizer.from_pretrained(tiny_model)
    without(whole, set(NAMES[5:])).save_pretrained(kept)
    (found,) = cl.survey(kept, ["ioi3", "induction"], prompts=8).models
    assert [each.task for each in found.tasks] == ["induction"]
    (left,) = found.left_out
    assert left.name == "ioi3"
    assert "'ioi3' cannot be built for this tokenizer: it needs 6 words for 'name'" in left.reason


def test_own_items_are_asked_as_far_as_they_go(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    items = cl.get_task("ioi3").items("test", 6)
    # The second has two right answers of three.
    items[1] = items[1].model_copy(
        update={"also": items[1].distractors[:1], "distractors": items[1].distractors[1:]}
    )
    file.write_text("".join(item.model_dump_json() + "\n" for item in items))
    (found,) = cl.survey(tiny_model, [str(file), "ioi2"], prompts=12).models
    figures = found.figures(str(file))
    assert figures is not None
    assert figures.prompts == 6
    assert figures.chance == pytest.approx((5 * 1 / 3 + 2 / 3) / 6)


def test_one_model_is_in_memory_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")

    def loaded() -> int:
        return sum(type(each) is GPT2LMHeadModel for each in gc.get_objects())

    gc.collect()
    before, at_start, meanwhile = loaded(), [], []

    def listen(event) -> None:
        if event.kind == "started":
            at_start.append(loaded() - before)
        if event.kind == "advanced":
            meanwhile.append(loaded() - before)

    cl.survey([tiny_model, other, tiny_model], ["ioi2"], prompts=6, progress=listen)
    assert at_start == [0, 0]  # and a model named twice is asked once
    assert meanwhile == [1, 1]


def test_a_model_that_cannot_be_loaded_does_not_end_the_survey(
    tiny_model: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(tiny_model, tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    notes = []

    def listen(event) -> None:
        if event.kind == "note":
            notes.append(event.text)

    models = [bare, tiny_model, tmp_path / "none"]
    found = cl.survey(models, ["ioi2"], prompts=6, progress=listen)
    assert [each.model for each in found.models] == [str(tiny_model)]
    assert [each.name for each in found.left_out] == [str(bare), str(tmp_path / "none")]
    assert "the model has no tokenizer" in found.left_out[0].reason
    assert "there is no such model directory" in found.left_out[1].reason
    assert [note.partition(":")[0] for note in notes] == [
        f"{bare} is left out",
        f"{tmp_path / 'none'} is left out",
    ]
    with pytest.raises(cl.CircuitlapseError, match=r"none of the models .*\n.*bare: the model has"):
        cl.survey(bare, ["ioi2"])


def test_slips_are_found_before_any_model_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    for models, tasks, message in (
        ([], None, "there is no model to survey. Name at least one"),
        ([tiny_model], [], "there is no task to test"),
        ([tiny_model], ["ioi7"], "there is no such task .got 'ioi7'"),
        ([tiny_model, "ioi3"], ["ioi2"], "ioi3 is a task, not a model. Pass it as `--tasks ioi3`"),
        (["organism:wild"], None, "no such organism .got 'wild'.. Use one of default, natural"),
        (["organism:default:x"], None, "seed must be a whole number .got 'x'"),
    ):
        with pytest.raises(cl.CircuitlapseError, match=message):
            cl.survey(models, tasks, progress=lambda event: pytest.fail("work was begun"))
    with pytest.raises(cl.CircuitlapseError, match=r"at least 2 prompts .*got 1"):
        cl.survey(tiny_model, prompts=1)


def test_the_command_prints_and_writes_everything(tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    json_file, page = tmp_path / "new" / "survey.json", tmp_path / "survey.html"
    arguments = [
        tiny_model,
        other,
        "--tasks",
        "ioi2,ioi3",
        "--tasks",
        "bought_more",
        "--prompts",
        12,
        "--json",
        json_file,
        "--html",
        page,
    ]
    done = CliRunner().invoke(APP, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    assert done.output.count("Not tested: bought_more: 'bought_more' cannot be built") == 2
    assert "smallest model that masters it" in done.output
    found = Survey.model_validate(json.loads(json_file.read_text()))
    assert [len(model.tasks) for model in found.models] == [2, 2]
    assert page.read_text(encoding="utf-8") == render_survey(found)

    again = CliRunner().invoke(
        APP,
        [
            str(tiny_model),
            str(tmp_path / "none"),
            "--tasks",
            "ioi2",
            "--prompts",
            "6",
            "--json",
            str(json_file),
        ],
    )
    assert again.exit_code == 2
    assert f"Left out: {tmp_path / 'none'}: there is no such model directory" in again.output
    assert len(Survey.model_validate_json(json_file.read_text()).models) == 1
    wrong = CliRunner().invoke(APP, [str(tiny_model), "--html", str(tmp_path)])
    assert "is a directory. Name a file in it" in str(wrong.exception)


def test_nothing_on_the_page_can_run(surveyed: Survey) -> None:
    evil = "<script>document.title='taken'</script>"
    changed = surveyed.model_copy(
        update={
            "models": [
                surveyed.models[0].model_copy(
                    update={
                        "model": evil,
                        "pairs": [TaskPair(old=evil, new="b", distance=1, families=[evil])],
                    }
                )
            ]
            * 2,
            "left_out": [LeftOut(name=evil, reason=evil)],
            "smallest": {evil: evil},
        }
    )
    page = render_survey(changed)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 12
    assert "default-src 'none'; script-src 'none';" in unescape(page)
    assert "http" not in page.replace("http-equiv", "")

"""Experiments on tasks of one's own, and the refusal to evaluate on what was trained on."""

import json
from pathlib import Path

import pytest

import circuitlapse as cl
from circuitlapse.config.experiment import file_label
from circuitlapse.records import layout
from circuitlapse.records.items import Item, check_apart
from circuitlapse.records.store import Store
from circuitlapse.report.series.run_records import read_run
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

N = {"train": 16, "test": 24, "test_templates": 24, "validation": 12}


def write(path: Path, items: list[Item]) -> None:
    path.write_text("".join(item.model_dump_json() + "\n" for item in items))


def own(name: str) -> list[Item]:
    return [item for split, n in N.items() for item in cl.get_task(name).items(split, n)]


@pytest.fixture
def experiment(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ioi2", "ioi3"):
        write(tmp_path / f"my {name}.v1.jsonl", own(name))
    fields = small_experiment(tiny_model, placebo=False, steps=2).model_dump(mode="json")
    fields["tasks"] = {"old": "my ioi2.v1.jsonl", "new": "my ioi3.v1.jsonl"}
    fields["measure"]["counterfactuals"] = ["subject"]
    return cl.Experiment.model_validate(fields)


def test_an_experiment_takes_files_as_its_tasks(experiment, tmp_path, monkeypatch):
    run = cl.run_experiment(experiment, tmp_path / "run")
    names = [str(tmp_path / f"my {name}.v1.jsonl") for name in ("ioi2", "ioi3")]
    assert [run.experiment.tasks.old, run.experiment.tasks.new] == names
    assert set(run.table("nodes")["task"]) == set(names)
    assert set(run.table("readings")["task"].drop_nulls()) == set(names)
    assert "effects.s_to_io" in run.scores(2, names[0])
    assert read_run(run.path).experiment.tasks.old == file_label(names[0])
    assert file_label(names[1]) in run.report.read_text()
    copied = sorted((tmp_path / "run/tasks").glob("my-ioi3-v1-*.test.jsonl"))
    assert len(copied) == 1
    read = [Item.model_validate_json(line) for line in copied[0].read_text().splitlines()]
    assert len(read) == 24
    assert {item.prompt for item in read} <= {item.prompt for item in own("ioi3")}
    apart = json.loads((tmp_path / "run" / layout.SEPARATION).read_text())
    assert apart["trained_on"] == ["finetune"]
    assert len(apart["apart_from"]) == 6
    # The run is gone on with from anywhere.
    monkeypatch.chdir(tmp_path / "run")
    events = []
    cl.run_experiment(run.experiment, tmp_path / "run", events.append)
    assert not [event for event in events if event.kind == "started"]


def test_what_is_trained_on_is_not_tested_on(experiment, tmp_path):
    items = own("ioi2")
    learnt = cl.get_task("ioi3").items("train", 16)
    # The old task's file calls a test item what the new task's file trains on.
    items[30] = learnt[3].model_copy(
        update={
            "split": "test",
            "corrupt": items[30].corrupt,
            "spans": items[30].spans,
            "corrupt_answers": items[30].corrupt_answers,
        }
    )
    write(tmp_path / "my ioi2.v1.jsonl", items)
    with pytest.raises(
        cl.CircuitlapseError,
        match=r"test\.jsonl, line \d+: .* trained on too, in finetune\.train\.jsonl, line \d+",
    ) as caught:
        cl.run_experiment(experiment, tmp_path / "run")
    assert learnt[3].prompt in str(caught.value)
    assert not list((tmp_path / "run").rglob("scores/**/*.safetensors"))


def test_the_first_shared_prompt_is_named_with_both_lines(tmp_path):
    items, store = cl.get_task("ioi3").items("train", 9), Store(tmp_path)
    files = {"a": items[:5], "b": [*items[5:], items[2], items[1]], "c": items[5:]}
    for name, held in files.items():
        with store.write(f"tasks/{name}.jsonl", "made up") as path:
            write(path, held)
    check_apart(store, "tasks/a.jsonl", "tasks/c.jsonl")
    with pytest.raises(cl.CircuitlapseError, match=r"b\.jsonl, line 5: .* in a\.jsonl, line 3"):
        check_apart(store, "tasks/a.jsonl", "tasks/b.jsonl")


def test_names_of_files_are_safe_and_do_not_clash():
    assert file_label("ioi3") == "ioi3"
    assert file_label("ioi2_apart") == "ioi2_apart"
    one, two = file_label("/a/my task.v1.jsonl"), file_label("/b/my task.v1.jsonl")
    assert one != two
    for name in (one, two, file_label("someone/thing"), file_label("../../x")):
        assert not set(name) & set("/. \\")

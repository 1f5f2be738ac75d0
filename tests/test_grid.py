"""Recipes and seeds as one grid: names, checkpoints, and a run with several recipes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

import circuitlapse as cl
from circuitlapse.cli.export import export
from circuitlapse.cli.summary import print_summary
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.config.toml import read_experiment, to_toml
from circuitlapse.pipeline.plan.plan import plan_jobs
from circuitlapse.report.series.run_records import read_run
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")


def grid(**lists) -> Finetune:
    return Finetune.model_validate({"grid": lists})


def test_one_recipe_keeps_the_plain_names():
    assert [
        training_run.name
        for training_run in Finetune.model_validate({"seeds": [0, 3]}).training_runs()
    ] == [
        "seed-0",
        "seed-3",
    ]
    one = grid(learning_rate=[2e-5])
    assert [training_run.name for training_run in one.training_runs()] == ["seed-0"]
    assert one.recipes()["default"].learning_rate == 2e-5


def test_every_combination_is_a_recipe_named_by_what_differs():
    found = grid(learning_rate=[1e-3, 2e-5], method=["full", "lora"], preset=["full-text"])
    assert {name: (r.learning_rate, r.method, r.preset) for name, r in found.recipes().items()} == {
        "lr-0.001_full": (1e-3, "full", "full-text"),
        "lr-0.001_lora": (1e-3, "lora", "full-text"),
        "lr-2e-05_full": (2e-5, "full", "full-text"),
        "lr-2e-05_lora": (2e-5, "lora", "full-text"),
    }


@settings(max_examples=30)
@given(
    rates=st.lists(st.floats(1e-300, 1e300), unique=True, max_size=4),
    methods=st.lists(st.sampled_from(["full", "lora"]), unique=True),
    optimizers=st.lists(st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True), unique=True, max_size=3),
    seeds=st.lists(st.integers(0, 10**9), unique=True, min_size=1, max_size=3),
)
def test_names_are_distinct_safe_and_stable(rates, methods, optimizers, seeds):
    finetune = Finetune.model_validate(
        {
            "seeds": seeds,
            "grid": {"learning_rate": rates, "method": methods, "optimizer": optimizers},
        }
    )
    names = [training_run.name for training_run in finetune.training_runs()]
    combinations = max(1, len(rates)) * max(1, len(methods)) * max(1, len(optimizers))
    assert len(set(names)) == len(names) == combinations * len(seeds)
    assert all(re.fullmatch(r"[a-z0-9_.+-]+", name) for name in names)
    assert names == [training_run.name for training_run in finetune.training_runs()]


@given(
    steps=st.integers(1, 3000),
    every=st.integers(1, 3000),
    listed=st.lists(st.integers(1, 3000), unique=True, max_size=6),
)
def test_a_schedule_runs_from_the_base_to_the_last_step(steps, every, listed):
    chosen = [step for step in listed if step <= steps]
    for save_at in ("every", "log", chosen):
        if save_at == "every" and every > steps:
            continue
        finetune = Finetune.model_validate(
            {"steps": steps, "save_every": every, "save_at": save_at}
        )
        found = finetune.checkpoint_steps()
        assert found[0] == 0
        assert found[-1] == steps
        assert found == sorted(set(found))
        between = found[1:-1]
        if save_at == "every":
            assert between == [step for step in range(1, steps) if step % every == 0]
        elif save_at == "log":
            assert all(step & (step - 1) == 0 for step in between)
            assert len(found) <= steps.bit_length() + 2
        else:
            assert set(between) == set(chosen) - {steps}


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ({"save_at": "evry"}, 'must be "every", "log" or a list of steps above 0'),
        ({"save_at": [0, 4]}, 'must be "every", "log" or a list of steps above 0'),
        ({"save_at": [300]}, r"`save_at` \(300\) exceeds `steps` \(240\)"),
        ({"save_at": [4, 4]}, "has duplicates"),
        (
            {"gradient_accumulation": 5},
            r"`gradient_accumulation` \(5\) does not divide `batch_size` \(32\)",
        ),
        (
            {"steps": 1, "save_every": 1, "batch_size": 8, "replay_fraction": 0.95},
            r"`replay_fraction` \(0\.95\) leaves fewer than two of the 8 prompts",
        ),
        ({"grid": {"learning_rate": [1e-3, 1e-3]}}, "`learning_rate` has duplicates"),
        ({"grid": {"method": ["half"]}}, "'full' or 'lora'"),
        ({"optimizer": "../up"}, "should match pattern"),
        ({"trainer": {"optim": "sgd"}}, "`optim` is set by finetune.optimizer"),
        ({"trainer": {"packing": True}}, "`packing`: circuitlapse tokenises the prompts"),
        (
            {"trainer": {"push_to_hub": True, "seed": 1}},
            "by finetune.seeds; `push_to_hub`: circuitlapse sends nothing",
        ),
    ],
)
def test_faults_say_what_is_wrong(chosen, fault):
    with pytest.raises(ValidationError, match=fault):
        Finetune.model_validate(chosen)


def test_every_setting_survives_its_file(tmp_path):
    finetune = {
        "save_at": [1, 5],
        "grid": {"learning_rate": [1e-3, 2e-5], "preset": ["full-text"]},
        "lora": {"targets": ["c_attn"], "rank": 2},
        "trainer": {"lr_scheduler_kwargs": {"min_lr": 1e-6}, "report_to": ["a", "b"], "bf16": True},
    }
    experiment = Experiment.model_validate({"base": {"path": "x"}, "finetune": finetune})
    (tmp_path / "experiment.toml").write_text(to_toml(experiment))
    assert read_experiment(tmp_path / "experiment.toml") == experiment


def test_a_recipe_alone_decides_which_fine_tunes_are_made_again(tiny_model):
    def keys(**finetune):
        jobs = plan_jobs(small_experiment(tiny_model, **finetune), {"path": "x"})
        return {job.name: job.key for job in jobs}

    one, two = keys(grid={"learning_rate": [1e-3]}), keys(grid={"learning_rate": [1e-3, 1e-2]})
    assert one["fine-tune seed-0"] != two["fine-tune lr-0.01-seed-0"]
    assert one["prompts finetune train"] == two["prompts finetune train"]
    assert {
        "verdict lr-0.001",
        "verdict lr-0.01",
        "fine-tune placebo-shuffled-answers-lr-0.01-seed-0",
    } < {*two}
    names = [job.name for job in plan_jobs(small_experiment(tiny_model), {"path": "x"})]
    assert "verdict" in names
    assert "fine-tune placebo-shuffled-answers-seed-0" in names


@pytest.mark.slow
def test_a_run_with_two_recipes_has_two_verdicts_and_reports(tiny_model, tmp_path, capsys):
    chosen = {"placebo": False, "steps": 2, "grid": {"method": ["full", "lora"]}}
    run = cl.run_experiment(small_experiment(tiny_model, **chosen), tmp_path / "run")
    assert list(run.recipes) == ["full", "lora"]
    with pytest.raises(cl.CircuitlapseError, match=r"several recipes.*names: full, lora"):
        _ = run.verdict
    with pytest.raises(cl.CircuitlapseError, match=r"no such recipe \(got 'half'\)"):
        cl.load_run(run.path, "half")
    full, lora = run.recipes.values()
    assert full.report.name == "full.html"
    for part in (full, lora):
        assert part.verdict.evidence[0].where["recipe"] == part.recipe
        assert set(part.table("nodes")["recipe"]) == {part.recipe}
    assert len(run.table("nodes")) == 2 * len(full.table("nodes"))
    assert not (
        full.scores(2, "ioi3")["edges.names"] == lora.scores(2, "ioi3")["edges.names"]
    ).all()
    assert lora.model(2, device="cpu").graph == full.model(0, device="cpu").graph
    CliRunner().invoke(
        export,
        [str(run.path), "--recipe", "lora", "--svg", str(tmp_path / "svg")],
        catch_exceptions=False,
    )
    assert len(list((tmp_path / "svg").glob("step-*.svg"))) == 2
    with pytest.raises(cl.CircuitlapseError, match=r"several recipes.*--recipe: full, lora"):
        CliRunner().invoke(export, [str(run.path), "--gif", "x.gif"], catch_exceptions=False)
    with pytest.raises(
        cl.CircuitlapseError, match=r"no results for this recipe .*default.* finished: full, lora"
    ):
        read_run(run.path)
    print_summary(run, Console(width=120))
    shown = capsys.readouterr().out
    for expected in ("recipe full", "recipe lora", "held out", "old task", "reports/lora.html"):
        assert expected in shown.replace("\n", "")

"""Controls in a run: from the config to jobs and tables, on a tiny real model."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

import circuitlapse as cl
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.plan.plan import plan_jobs
from circuitlapse.pipeline.run.execute import work
from circuitlapse.records.arrays import load_about
from circuitlapse.records.layout import curve
from circuitlapse.records.store import Store
from small_run import needed, small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

PLACEBO = {"placebos": ["shuffled_answers", "unrelated_text"], "placebo_seeds": [0, 3]}
CONTROLS = {
    **PLACEBO,
    "train_only": ["old_circuit", "mlps", "rank_1", ["a1.h0", "norms"]],
    "random_sets": 1,
    "unrelated": "induction",
    "few_shot": [0, 1],
    "prompts": 16,
}


def with_controls(base, **finetune):
    fields = small_experiment(base, **finetune).model_dump(mode="json")
    return cl.Experiment.model_validate({**fields, "controls": CONTROLS})


@pytest.fixture(scope="module")
def finished(tiny_model, tmp_path_factory):
    return cl.run_experiment(with_controls(tiny_model), tmp_path_factory.mktemp("runs") / "run")


def test_every_control_has_its_curve_and_keeps_no_checkpoint(finished):
    table = finished.table("elicitable")
    trained = table.filter(pl.col("step").is_not_null())
    assert dict(trained.group_by("control").agg(pl.col("step").sort()).iter_rows()) == {
        name: [0, 2, 4] for name in ("everything", "mlps", "rank_1", "a1.h0 norms")
    }
    start = trained.filter(step=0)
    assert start["logit_diff"].n_unique() == 1  # all begin at the base
    assert (start["share"].drop_nulls() == 0).all()
    assert set(table["n"]) <= {0, 16}
    kept = {path.parent.name for path in (finished.path / "checkpoints").glob("*/*")}
    assert kept == {
        "seed-0",
        *(f"placebo-shuffled-answers-seed-{seed}" for seed in (0, 3)),
        *(f"placebo-unrelated-text-seed-{seed}" for seed in (0, 3)),
    }
    assert not list(finished.path.glob(".restart-*"))


def test_old_task_heads_are_not_reported_where_the_base_does_not_solve_the_old_task(finished):
    not_reported = finished.table("elicitable").filter(
        pl.col("control").is_in(["old_circuit", "random_set"])
    )
    assert len(not_reported) == 2
    assert not_reported["step"].is_null().all()
    assert all("does not lower the base's metric" in text for text in not_reported["not_reported"])


def test_the_whole_fine_tune_has_all_of_its_improvement(finished):
    row = finished.table("elicitable").filter(control="everything", step=4).row(0, named=True)
    scores = finished.scores(4, "ioi3")
    after = scores["behaviour.test.logit_diff"][:16]
    assert row["logit_diff"] == pytest.approx(after.mean(dtype=float))
    assert row["candidate_accuracy"] == scores["behaviour.test.candidate_correct"][:16].mean()
    assert row["n"] == 16
    if row["share"] is None:
        assert "not clear of zero" in row["not_reported"]
    else:
        assert row["share"] == row["share_low"] == row["share_high"] == 1


def test_only_the_named_parts_were_trained(finished, tiny_model):
    sizes = dict(
        finished.table("elicitable").filter(step=4).select("control", "n_parameters").iter_rows()
    )
    width = AutoModelForCausalLM.from_pretrained(tiny_model).config.n_embd
    of_head = 4 * width * (width // 2) + 3 * (width // 2)  # q, k, v with biases, and o
    assert sizes["a1.h0 norms"] == of_head + 2 * width * 5
    assert sizes["mlps"] == 2 * (8 * width * width + 5 * width)
    assert sizes["rank_1"] == 2 * (4 * width + 2 * width + 2 * 5 * width)
    assert sizes["everything"] is None


def test_examples_are_about_the_base(finished, tiny_model):
    few = finished.table("elicitable").filter(control="few_shot").sort("examples")
    assert few["examples"].to_list() == [0, 1]
    start = finished.table("elicitable").filter(control="everything", step=0)
    assert few["candidate_accuracy"][0] == start["candidate_accuracy"][0]


def test_overlap_has_an_unrelated_task_and_placebos(finished):
    table = finished.table("overlap")
    right = {
        beside: set(part["right"]) for (beside,), part in table.group_by("compared_with") if beside
    }
    both = ("ioi2", "ioi3")
    assert right == {
        "unrelated_task": {"base:induction", "tuned:induction"},
        "placebo": {
            f"{kind}-{seed}:{task}"
            for kind in PLACEBO["placebos"]
            for seed in (0, 3)
            for task in both
        },
    }
    extra = table.filter(pl.col("compared_with") != "")
    assert set(extra["unit"]) == {"nodes"}
    left = extra.group_by("compared_with").agg(pl.col("left").unique().sort())
    assert dict(left.iter_rows()) == {
        "unrelated_task": ["base:ioi2", "tuned:ioi3"],
        "placebo": ["base:ioi2"],
    }


def test_every_placebo_seed_is_in_its_table_and_in_the_noise_of_changes(finished):
    table = finished.table("placebo")
    assert set(table.select("placebo", "finetune_seed").unique().iter_rows()) == {
        (kind, seed) for kind in PLACEBO["placebos"] for seed in (0, 3)
    }
    training_run = finished.experiment.training_runs()[0]
    noise = [placebo.name for placebo in finished.experiment.placebos_for_noise_floor(training_run)]
    assert noise == ["placebo-shuffled-answers-seed-0", "placebo-shuffled-answers-seed-3"]
    weights = [
        AutoModelForCausalLM.from_pretrained(finished.path / f"checkpoints/{name}/step-00004")
        for name in noise
    ]
    assert not torch.equal(*(each.lm_head.weight for each in weights))


def test_a_control_that_is_gone_is_trained_again_alone_and_to_the_same_bytes(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run", copy_function=shutil.copy2)
    names = [curve("seed-0", control) for control in ("mlps", "rank_1")]
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    for name in names:
        (tmp_path / "run" / name).unlink()
    started = []
    cl.run_experiment(
        finished.experiment,
        tmp_path / "run",
        lambda event: started.append(event.job) if event.kind == "started" else None,
    )
    assert started == ["train mlps seed-0", "train rank-1 seed-0"]
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before


def test_controls_are_planned_once_for_each_recipe(tiny_model):
    grid = {"grid": {"learning_rate": [1e-3, 1e-2]}, "seeds": [1, 2]}
    names = {job.name for job in plan_jobs(with_controls(tiny_model, **grid), {"path": "x"})}
    assert {"train mlps lr-0.01-seed-1", "few-shot"} <= names
    assert "train mlps lr-0.01-seed-2" not in names
    kinds = [
        name for name in names if name.startswith("fine-tune placebo-shuffled-answers-lr-0.01")
    ]
    assert sorted(kinds) == [
        f"fine-tune placebo-shuffled-answers-lr-0.01-seed-{seed}" for seed in (0, 1, 2, 3)
    ]


def test_what_is_about_the_base_needs_no_fine_tune(tiny_model):
    """It would be lost with the fine-tune, and then every verdict without it."""
    jobs = plan_jobs(with_controls(tiny_model), {"path": "x"})
    assert {job.kind for job in needed(jobs, "few-shot")[:-1]} == {"base", "prompts"}


def test_a_control_whose_logits_are_not_finite_keeps_its_curve_up_to_there(tiny_model, tmp_path):
    """After one step its weights are finite, and too large for finite logits."""
    fields = small_experiment(
        tiny_model,
        placebo=False,
        steps=1,
        save_every=1,
        optimizer="sgd",
        trainer={"max_grad_norm": 0.0},
        learning_rate=1e30,
    ).model_dump(mode="json")
    controls = {"train_only": ["mlps"], "prompts": 16}
    experiment = cl.Experiment.model_validate({**fields, "controls": controls})
    for job in needed(plan_jobs(experiment, {"path": "x"}), "train mlps seed-0"):
        work(job, Store(tmp_path), experiment, lambda done, of, note="": None)
    about = load_about((tmp_path / curve("seed-0", "mlps")).read_bytes())
    assert about["steps"] == [0]
    assert "training diverged: at step 1 the logits are not finite" in about["not_reported"]


def test_unrelated_text_fits_the_model_whatever_the_preset(tiny_model, tmp_path):
    experiment = small_experiment(
        tiny_model, placebo="unrelated_text", preset="repeat-completion", steps=1, save_every=1
    )
    jobs = plan_jobs(experiment, {"path": "x"})
    for job in needed(jobs, "fine-tune placebo-unrelated-text-seed-0"):
        work(job, Store(tmp_path), experiment, lambda done, of, note="": None)
    assert (tmp_path / "checkpoints/placebo-unrelated-text-seed-0/step-00001").is_dir()


def test_nothing_is_trained_with_checkpoints_that_the_user_has(tiny_model):
    fields = {"base": {"path": str(tiny_model)}, "checkpoints": ["somewhere"]}
    allowed = {"few_shot": [0]}
    assert cl.Experiment.model_validate({**fields, "controls": allowed}).controls.few_shot
    for control in ({"train_only": ["mlps"]}, {"placebos": ["old_task"]}):
        with pytest.raises(ValueError, match="cannot be combined with `controls.train_only`"):
            cl.Experiment.model_validate({**fields, "controls": control})


def test_points_on_a_curve_are_the_behaviour_of_the_trained_model(finished, tiny_model):
    """Step 0 is the base itself."""
    base = load_model(tiny_model)
    items = cl.get_task("ioi3").items("test", 16)
    shown = behaviour(base, cl.tokenize(items, base.tokenizer, "names"))
    row = finished.table("elicitable").filter(control="mlps", step=0).row(0, named=True)
    np.testing.assert_allclose(
        row["logit_diff"], shown.logit_diff.mean(dtype=np.float64), rtol=1e-5
    )
    document = json.loads((finished.path / "controls/old-circuit.json").read_text())
    assert document["heads"] == []

"""What a run says of a real fine-tune: every table of the evidence, and the sentences about it."""

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import circuitlapse as cl
from circuitlapse.analyses.behaviour import BEHAVIOUR
from circuitlapse.analyses.carriers import CARRIERS
from circuitlapse.records.arrays import load_about, load_arrays
from circuitlapse.records.documents import Labelled
from circuitlapse.records.items import read_items
from circuitlapse.records.layout import grafts, grafts_at, prompts
from circuitlapse.two_models.fit_scales import rescaled
from circuitlapse.two_models.head_grafts import random_grafts
from circuitlapse.verdict.causes import SUBSETS
from circuitlapse.verdict.evidence import CauseEvidence
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.verdict import FineTune
from command_line import command
from found_prompts import between, found_prompts, random_model, save
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

STEPS = (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[int, Path]:
    """A base, and four checkpoints on a straight direction to another model."""
    base, tuned = random_model(0), random_model(1)
    home = tmp_path_factory.mktemp("models")
    return {step: save(between(base, tuned, step / 4), home / f"step-{step}") for step in STEPS}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> tuple[str, str]:
    """The old and the new task, as files."""
    directory = tmp_path_factory.mktemp("tasks")
    old, new = found_prompts(random_model(0), random_model(1), directory)
    return str(old), str(new)


@pytest.fixture(scope="module")
def run(places, tasks, tmp_path_factory) -> cl.Run:
    fields = small_experiment(places[0]).model_dump(mode="json", exclude={"finetune"})
    fields["checkpoints"] = {str(step): str(place) for step, place in places.items()}
    fields["tasks"] = dict(zip(("old", "new"), tasks, strict=True))
    fields["measure"] |= {"counterfactuals": ["subject"], "circuit_prompts": 24}
    fields["compare"] |= {
        "group_prompts": 48,
        "graft_prompts": 64,
        "graft_checkpoints": 2,
        "random_groups": 4,
        "intervention_prompts": 24,
        "bootstrap": 100,
    }
    experiment = cl.Experiment.model_validate(fields)
    return cl.run_experiment(experiment, tmp_path_factory.mktemp("runs") / "run")


def _causes(run: cl.Run) -> CauseEvidence:
    content = (run.path / grafts("seed-0")).read_bytes()
    return CauseEvidence.of_arrays(load_arrays(content), load_about(content))


def _rise(run: cl.Run) -> float:
    """The improvement on the prompts of the grafts."""
    found = _causes(run)
    return float((found.tuned.logit_diff - found.base.logit_diff).mean(dtype=np.float64))


def test_every_sentence_points_at_rows_and_every_kind_of_evidence_has_one(run):
    found = run.verdict.evidence
    checks = [check for check in run.verdict.preconditions if check.table]
    assert len(checks) == len(run.verdict.preconditions)
    for evidence in (*found, *checks):
        wanted = [pl.col(column) == value for column, value in evidence.where.items()]
        assert len(run.table(evidence.table).filter(*wanted)), evidence
    assert {evidence.table for evidence in found} == {"behaviour", "carriers"}


def test_shapley_values_sum_to_the_improvement_at_every_step(run):
    whole = run.table("grafts").filter(pl.col("origin") == "base", pl.col("part") == "whole")
    assert set(whole["step"]) == {1, 3, 4}
    sums = (
        whole.filter(pl.col("quantity") == "shapley")
        .group_by("step")
        .agg(pl.col("improvement").sum())
    )
    assert dict(sums.iter_rows())[4] == pytest.approx(_rise(run), abs=1e-5)
    at_three = load_arrays((run.path / grafts_at("seed-0", 3)).read_bytes())["values"].mean(axis=1)
    assert dict(sums.iter_rows())[3] == pytest.approx(at_three[-1] - at_three[0], abs=1e-5)


def test_a_no_op_graft_is_the_base_and_a_full_one_the_tuned_model_bit_for_bit(run):
    values = load_arrays((run.path / grafts("seed-0")).read_bytes())["values"]
    found = _causes(run)
    assert SUBSETS[0] == frozenset()
    assert np.array_equal(values[0], found.base.logit_diff.astype(np.float64))
    assert np.array_equal(values[-1], found.tuned.logit_diff.astype(np.float64))
    assert np.array_equal(found.hybrids[-1], values[-1])


def test_mediation_has_the_improvement_at_one_end_and_the_verdicts_random_groups(run):
    rows = {row["group"]: row for row in run.table("mediation").to_dicts()}
    assert rows["all heads"]["improvement"] == pytest.approx(_rise(run), abs=1e-4)
    assert rows["all heads"]["share"] == pytest.approx(1)
    found = _causes(run)
    own, *random = found.held["old_heads"]
    assert rows["old_heads"]["improvement"] == pytest.approx(own, abs=1e-4)
    assert rows["old_heads"]["null_mean"] == pytest.approx(np.mean(random))
    assert rows["old_heads"]["n_random"] == len(random)
    assert rows["old_heads"]["heads"] == ", ".join(found.choice.old_heads)
    assert rows["other_heads"]["n_random"] == rows["old_heads"]["n_random"]


def test_patches_across_models_cover_groups_positions_and_both_ways(run):
    table = run.table("crosspatch")
    found = set(table.select("group", "position", "direction").iter_rows())
    groups, positions = set(table["group"]), {"everywhere", *_positions(run)}
    assert found == set(
        itertools.product(groups, positions, ("tuned_into_base", "base_into_tuned"))
    )
    assert groups == {"mlps", *run.table("mediation")["group"]} - {"no heads", "all heads"}
    beside = table.filter(pl.col("n_random").is_not_null())
    assert set(beside["group"]) == groups - {"mlps"}
    assert {"old_heads", "other_heads"} <= set(beside["group"])


def _positions(run: cl.Run) -> list[str]:
    items = cl.get_task(run.experiment.tasks.new).items("test", 4)
    return list(cl.tokenize(items, run.model(0, device="cpu").tokenizer, "s1_to_io").positions)


def test_query_and_value_circuits_are_compared_with_random_groups(run):
    parts = run.table("grafts").filter(pl.col("part") != "whole")
    assert set(parts["part"]) == {"qk", "ov"}
    assert set(parts["quantity"]) == {"add_one_in", "leave_one_out"}
    assert set(parts["step"]) == {4}
    assert parts.filter(pl.col("group") == "old_heads")["n_random"].is_not_null().all()


def test_every_group_of_heads_is_compared_with_random_groups_added_and_left_out(run):
    last = run.table("grafts").filter(step=4, part="whole")
    heads = pl.col("group").str.ends_with("_heads") & (pl.col("n_parameters") > 0)
    alone = last.filter(heads, pl.col("quantity").is_in(["add_one_in", "leave_one_out"]))
    assert set(alone["origin"]) == {"base", "rescaled_base"}
    assert {"old_heads", "other_heads"} <= set(alone["group"])
    assert alone["n_random"].is_not_null().all()
    assert alone["n_random"].min() >= 2
    others = last.filter(~heads | (pl.col("quantity") == "shapley"))
    assert others["n_random"].is_null().all()
    # In the rescaled base, first in, they are those of the evidence that the verdict rests on.
    own, *random = _causes(run).graft["old_heads"]
    judged = alone.filter(origin="rescaled_base", group="old_heads", quantity="add_one_in").row(
        0, named=True
    )
    assert judged["improvement"] == pytest.approx(own, abs=1e-4)
    assert judged["null_mean"] == pytest.approx(np.mean(random))


def test_random_groups_are_grafted_where_their_group_was(run):
    found, task = _causes(run), run.experiment.tasks.new
    base, tuned = (run.model(step, device="cpu") for step in (0, 4))
    items = read_items((run.path / prompts(task, "test")).read_bytes())[:64]
    pairs = cl.tokenize(items, base.tokenizer, cl.get_task(task).counterfactuals[0])
    table = run.table("grafts").filter(
        step=4, part="whole", group="old_heads", quantity="leave_one_out"
    )
    means = {}
    for origin, start in (("base", base), ("rescaled_base", rescaled(base, found.scales))):
        groups = {"old_heads": found.choice.old_heads}
        random = random_grafts(start, tuned, pairs, {"leave_one_out": groups}, seed=0, n_random=4)
        means[origin] = np.mean(random["leave_one_out", "old_heads"])
        assert table.filter(origin=origin)["null_mean"].item() == pytest.approx(means[origin])
    assert means["base"] != pytest.approx(means["rescaled_base"])


def test_output_scales_are_those_that_were_fitted(run):
    table = run.table("output_scales")
    assert dict(table.select("node", "scale").iter_rows()) == _causes(run).scales
    assert table.filter(pl.col("head") == -1)["node"].to_list() == ["m0", "m1"]


def test_roles_are_there_at_every_step_and_none_changed_at_the_first(run):
    table = run.table("roles")
    assert len(table) == len(STEPS) * 2 * 8
    first = table.filter(pl.col("step") == 0)
    assert not first["changed"].any()
    assert (first["distance"] == 0).all()
    assert (first["features"] == "").all()
    last = table.filter(pl.col("step") == 4, pl.col("task") == run.experiment.tasks.new)
    readings = run.table("readings").filter(
        pl.col("step") == 4,
        pl.col("task") == run.experiment.tasks.new,
        pl.col("reading") == "copying",
    )
    assert last["copying"].to_list() == pytest.approx(readings["value"].to_list())
    assert (
        last["changed"] == ((last["distance"] > last["noise"]) & (last["distance"] >= 0.1))
    ).all()
    assert (last["q_share"].is_not_null() == (last["q_reads"] != "")).all()
    assert {"input"} <= set(last.filter(pl.col("layer") == 0)["q_reads"]) <= {"input", ""}


def test_dynamics_dates_every_head_and_the_behaviour(run):
    table = run.table("dynamics")
    assert set(table["kind"]) == {"head", "behaviour"}
    curve = (
        run.table("behaviour")
        .filter(pl.col("task") == run.experiment.tasks.new, pl.col("split") == "test")
        .sort("step")["logit_diff"]
        .to_numpy()
    )
    row = table.filter(
        pl.col("kind") == "behaviour", pl.col("task") == run.experiment.tasks.new
    ).to_dicts()[0]
    assert row["before"] == pytest.approx(curve[0])
    assert row["change"] == pytest.approx(curve[-1] - curve[0])
    assert 0 < row["step_of_90"] <= STEPS[-1]
    assert row["epoch_steps"] is None  # nobody knows what these checkpoints were trained on
    heads = table.filter(pl.col("kind") == "head")
    assert len(heads) == 2 * 8  # tasks and heads
    assert (heads["seeds_with_sign_change"] == heads["sign_changed"].cast(pl.Int64)).all()


def test_overlap_and_head_changes_follow_the_checkpoints(run):
    overlap = run.table("overlap").filter(
        pl.col("left") == f"base:{run.experiment.tasks.old}",
        pl.col("right") == f"tuned:{run.experiment.tasks.old}",
        pl.col("unit") == "nodes",
        pl.col("measure") == "pearson",
    )
    assert dict(overlap.select("step", "value").iter_rows())[0] == pytest.approx(1)
    assert overlap["step"].to_list() == list(STEPS)
    changes = run.table("head_changes")
    assert set(changes.filter(pl.col("step") == 0)["category"]) <= {"kept", "unused"}
    assert set(changes["step"]) == set(STEPS)


def test_the_verdict_says_what_is_known_of_its_rule(run):
    document = json.loads((run.path / "verdict.json").read_text())
    assert document["schema_version"] == 3
    assert [each["label"] for each in document["seeds"]] == [document["label"]]
    assert document["scope"].startswith("this run; ")
    assert "docs/results/calibration.md" in run.verdict.calibration
    assert run.verdict.calibration in " ".join(run.report.read_text().split())


def test_a_reader_can_make_the_label_again_from_the_tables(run):
    """Nothing but parquet files, and the preconditions' answers."""
    behaviour = run.table("behaviour").filter(step=4, task=run.experiment.tasks.new, split="test")
    (risen,) = (BEHAVIOUR.whole(row) for row in behaviour.to_dicts())
    rows = [CARRIERS.whole(row) for row in run.table("carriers").filter(step=4).to_dicts()]
    gain = Gain(*(risen[f"{each}_rise"] for each in ("logits", "accuracy", "standardised")))
    again = FineTune(gain, Measures.of_rows(rows), run.verdict.preconditions).labelled()
    (one,) = run.verdict.seeds
    assert {name: getattr(one, name) for name in Labelled.model_fields} == dict(again)


def test_identical_models_have_no_improvement(places, tmp_path):
    run = cl.compare_models(
        places[0], places[0], out=tmp_path / "same", prompts=16, bits=False, workers=1
    )
    assert run.verdict.label == "no_gain"
    assert (run.verdict.improvement.low, run.verdict.improvement.high) == (0, 0)
    assert run.verdict.sentence.startswith("Fine-tuning step-0 did not improve ioi3: ")
    assert run.experiment.steps() == [0, 1]
    assert not run.table("roles")["changed"].any()


def test_two_models_are_compared_from_the_command_line(places, tmp_path):
    options = ("--prompts", 16, "--workers", 1, "--no-bits")
    done = command("compare", places[0], places[4], *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Verdict: " in done.stdout
    for said in ("Was it there? ", "What carries it? ", "Measures, 95 % intervals", "The rule: "):
        assert said in done.stdout
    assert (tmp_path / "runs/compare-step-4/verdict.json").exists()


def test_a_model_that_is_not_there_is_refused_and_leaves_nothing(places, tmp_path):
    with pytest.raises(cl.CircuitlapseError, match="there is no such checkpoint"):
        cl.compare_models(places[0], tmp_path / "nothing", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()

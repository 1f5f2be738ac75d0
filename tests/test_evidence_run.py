"""What a run says of a real fine-tune: every table of the evidence, and the sentences about it."""

import json
from pathlib import Path

import polars as pl
import pytest

import circuitlapse as cl
from circuitlapse.analyses.behaviour import BEHAVIOUR
from circuitlapse.analyses.carriers import CARRIERS
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.records.documents import Labelled
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
        "carrier_prompts": 48,
        "bootstrap": 100,
    }
    experiment = cl.Experiment.model_validate(fields)
    return cl.run_experiment(experiment, tmp_path_factory.mktemp("runs") / "run")


def test_every_sentence_points_at_rows_and_every_kind_of_evidence_has_one(run):
    found = run.verdict.evidence
    checks = [check for check in run.verdict.preconditions if check.table]
    assert len(checks) == len(run.verdict.preconditions)
    for evidence in (*found, *checks):
        wanted = [pl.col(column) == value for column, value in evidence.where.items()]
        assert len(run.table(evidence.table).filter(*wanted)), evidence
    assert {evidence.table for evidence in found} == {"behaviour", "carriers"}


def test_weights_are_of_every_group_and_layer_and_of_the_heads_that_carriers_chose(run):
    rows = {row["part"]: row for row in run.table("weights").to_dicts()}
    groups = {"old_heads", "other_heads", "mlps", "shared"}
    assert (
        {"layer 0", "layer 1", *groups} <= set(rows) <= {"layer 0", "layer 1", *groups, "new_heads"}
    )
    chosen = run.table("carriers").filter(heads="old", measure="dependence")["names"].item()
    base = run.model(0, device="cpu").hf
    head = sum(
        (piece.index[0].stop - piece.index[0].start)
        * (1 if len(piece.index) == 1 else piece.index[1].stop - piece.index[1].start)
        for piece in component_pieces(base)
        if piece.component == "a0.h0"
    )
    assert rows["old_heads"]["n_parameters"] == head * len(chosen.split())
    for row in rows.values():
        assert row["put_back_low"] <= row["put_back"] <= row["put_back_high"]


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

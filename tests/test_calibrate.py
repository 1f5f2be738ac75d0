import os
import sys
from dataclasses import replace
from io import StringIO

import polars as pl
import pytest
from rich.console import Console

from circuitlapse.calibration import candidate_jobs
from circuitlapse.calibration.calibrate import calibrate
from circuitlapse.calibration.ground_truth import (
    ALL_WEIGHTS,
    make_organism,
    organism_recipe,
)
from circuitlapse.calibration.judge import Judging, judge
from circuitlapse.calibration.organism_checks import KINDS
from circuitlapse.calibration.tally import confusion, outcome_of, tallies
from circuitlapse.cli.calibrate import print_calibration
from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.organism_cache import GroundTruthConfig
from circuitlapse.organisms.recipe import Recipe, Stage
from circuitlapse.records.calibration import CALIBRATION_COLUMNS, CalibratedOrganism, Calibration
from circuitlapse.stats.intervals import Estimate, clopper_pearson
from circuitlapse.verdict.verdict import THRESHOLDS

pytestmark = pytest.mark.usefixtures("unchecked")

TINY = Recipe(
    layers=2,
    heads=4,
    d_model=16,
    warmup=2,
    batch=4,
    extra_rounds=0,
    blank_heads=("a0.h1", "a1.h2"),
    gate_prompts=32,
    old_at_least=0.0,
    new_at_least=0.0,
    new_at_most=1.0,
    stages=(
        Stage(steps=3, weights={"repeat": 1.0}),
        Stage(steps=3, weights={"ioi2": 1.0, "three_any": 1.0}),
    ),
)
NEVER = TINY.model_copy(update={"old_at_least": 1.0})
QUICK = GroundTruthConfig(
    steps=4,
    batch_size=4,
    suppression_steps=4,
    prompts=48,
    group_prompts=48,
    scale_steps=3,
    head_rate=0.03,
)
LITTLE = Judging(validation=24, test=24, answers=24, n_random=2, repeats=20)


def run(out, cache, **options):
    recipes = {**dict.fromkeys(KINDS, TINY), "elicited": NEVER}
    settings = {"n": 1, "seed_from": 1, "workers": 1, "recipes": recipes} | options
    return calibrate(out, ground_truth=QUICK, judging=LITTLE, cache_dir=cache, **settings)


def without_seconds(found):
    return [each.model_copy(update={"seconds": 0.0}) for each in found.organisms]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """A calibration on models far too small to do anything, in two processes, and where it is."""
    out = tmp_path_factory.mktemp("calibration")
    return run(out, cache, workers=2), out


@pytest.mark.slow
def test_candidates_are_made_until_there_are_enough_or_twice_as_many_were_tried(whole):
    found, out = whole
    seeds = {kind: [o.seed for o in found.organisms if o.kind == kind] for kind in KINDS}
    for kind in ("formed", "transformed", "elicited"):
        assert seeds[kind] == [1, 2]
    assert found.missing == {"formed": 1, "transformed": 1, "elicited": 1}
    rejected = {o.kind: o.why_rejected for o in found.organisms if o.why_rejected}
    assert rejected["formed"].startswith("learned is")
    assert "does not lower the base's metric on the old task" in rejected["transformed"]
    assert "did not pass its gate" in rejected["elicited"]
    judged = [o for o in found.organisms if o.scored]
    assert [(o.kind, o.seed, o.variant) for o in judged] == [("nothing", 1, "shuffled_answers")]
    assert found.confusion == {"nothing": {judged[0].label: 1}}
    assert Calibration.model_validate_json((out / "calibration.json").read_text()) == found
    table = pl.read_parquet(out / "calibration.parquet")
    assert table.schema == pl.Schema(CALIBRATION_COLUMNS)
    assert table["kind"].n_unique() == 4


@pytest.mark.slow
def test_what_is_there_is_taken_and_a_stopped_calibration_goes_on(whole, cache, tmp_path):
    found, out = whole
    events = []
    again = run(out, cache / "gone", progress=events.append)
    assert without_seconds(again) == without_seconds(found)
    assert not (cache / "gone").exists()

    class StopError(Exception):
        pass

    def stop(event):
        if event.kind == "finished" and event.job.startswith("nothing"):
            raise StopError

    with pytest.raises(StopError):
        run(tmp_path, cache, progress=stop)
    assert not (tmp_path / "calibration.json").exists()
    kept = sorted(file.name for file in (tmp_path / "organisms").iterdir())
    assert "formed-1.json" in kept
    assert without_seconds(run(tmp_path, cache)) == without_seconds(found)


def test_other_thresholds_or_settings_judge_anew(monkeypatch):
    setup = candidate_jobs.Setup(dict.fromkeys(KINDS, TINY), QUICK, LITTLE, None)
    candidate = candidate_jobs.Candidate("formed", 1)
    keys = {setup.key_of(candidate), setup.key_of(candidate_jobs.Candidate("formed", 2))}
    for field, value in (("ground_truth", GroundTruthConfig()), ("judging", Judging())):
        keys.add(replace(setup, **{field: value}).key_of(candidate))
    monkeypatch.setitem(THRESHOLDS, "MAJORITY", 0.6)
    keys.add(setup.key_of(candidate))
    monkeypatch.setattr(candidate_jobs, "judges", lambda: "other code")
    keys.add(setup.key_of(candidate))
    assert len(keys) == 6


@pytest.mark.slow
def test_models_suppressed_in_all_weights_are_labelled_and_do_not_count(cache, tmp_path):
    recipes = {**dict.fromkeys(KINDS, NEVER), "elicited": TINY}
    found = run(tmp_path, cache, recipes=recipes, stress=True)
    stress = [o for o in found.organisms if o.variant == ALL_WEIGHTS]
    assert [(o.kind, o.seed, o.scored) for o in stress] == [("elicited", 1, False)]
    assert "unlocked_new has no value" in stress[0].why_rejected
    assert stress[0].label is not None
    assert found.tallies == []


@pytest.mark.slow
def test_a_placebo_is_judged_without_another_one(cache):
    made = make_organism("nothing", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    found = judge(made.base, made.tuned, made.placebo, LITTLE)
    assert made.placebo is None
    assert "The placebo did not improve" not in {check.name for check in found.decision.checks}
    formed = make_organism("formed", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    assert formed.placebo == made.tuned
    found = judge(formed.base, formed.tuned, formed.placebo, LITTLE)
    assert found.decision.checks[-1].name == "The placebo did not improve"


def test_what_cannot_be_calibrated_is_refused(tmp_path):
    with pytest.raises(CircuitlapseError, match="at least one organism of each kind .got 0"):
        calibrate(tmp_path, 0)
    with pytest.raises(CircuitlapseError, match=r"no such kind of organism .got 'grown'."):
        organism_recipe("grown")


def test_a_file_in_the_directorys_place_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(CircuitlapseError, match=r"mine is not a directory\. Name a new one"):
        calibrate(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped")
def test_a_killed_worker_is_explained(cache, tmp_path, monkeypatch):
    def die(*arguments):
        os._exit(1)

    monkeypatch.setattr(sys.modules["circuitlapse.calibration.calibrate"], "work_on", die)
    with pytest.raises(
        CircuitlapseError, match=r"memory ran out\. Start it again with fewer workers"
    ):
        run(tmp_path, cache, workers=2)


def organism(kind, label, seed=0, scored=True, why_rejected="", variant=""):
    share = Estimate(value=0.9, low=0.8, high=1.0)
    return CalibratedOrganism(
        kind=kind,
        seed=seed,
        variant=variant,
        scored=scored,
        why_rejected=why_rejected,
        figures={},
        trained=[],
        label=label,
        outcome=None if label is None else outcome_of(kind, label),
        reason="Because.",
        improvement=share,
        shares={"formed": share},
        checks=[],
        seconds=1.0,
    )


ORGANISMS = [
    *(organism("formed", "formed", seed) for seed in range(9)),
    organism("formed", "mixed", 9),
    organism("elicited", "undetermined", 3),
    organism("nothing", "no_gain", 1),
    organism("formed", None, 10, scored=False, why_rejected="mediated is 0.5, not at least 0.7"),
    organism("elicited", "formed", 4, scored=False, why_rejected="no value", variant=ALL_WEIGHTS),
]


def test_counts_hold_scored_organisms_only():
    assert confusion(ORGANISMS) == {
        "formed": {"formed": 9, "mixed": 1},
        "elicited": {"undetermined": 1},
        "nothing": {"no_gain": 1},
    }
    found = {each.kind: each for each in tallies(ORGANISMS)}
    causes = found["all causes"]
    assert (causes.n, causes.right, causes.wrong, causes.undetermined) == (11, 9, 1, 1)
    assert (found["nothing"].n, found["nothing"].right) == (1, 1)
    assert found["formed"].wrong_share.value == 0.1
    assert "transformed" not in found


def test_exact_intervals():
    # With all of n right the lower end is the n-th root of .025.
    assert clopper_pearson(10, 10).low == pytest.approx(0.025**0.1)
    assert clopper_pearson(0, 10).high == pytest.approx(1 - 0.025**0.1)
    half = clopper_pearson(5, 10)
    assert (half.low, half.high) == (
        pytest.approx(0.1871, abs=1e-4),
        pytest.approx(0.8129, abs=1e-4),
    )
    with pytest.raises(CircuitlapseError, match="got '?2 of 1"):
        clopper_pearson(2, 1)


def test_the_summary_names_every_organism_that_was_not_right_and_why():
    found = Calibration(
        circuitlapse="0",
        command="",
        finished="",
        seconds=1.0,
        n=10,
        seed_from=0,
        settings={},
        thresholds={},
        organisms=ORGANISMS,
        confusion=confusion(ORGANISMS),
        tallies=tallies(ORGANISMS),
        missing={"transformed": 10},
    )
    console = Console(width=120, record=True, file=StringIO())
    print_calibration(found, console)
    text = console.export_text()
    assert "9 (55 to 100 %)" in text
    for line in (
        "formed, seed 9, wrong: Because.",
        "elicited, seed 3, undetermined: Because.",
        "formed, seed 10, rejected: mediated is 0.5, not at least 0.7",
        "elicited (all_weights), seed 4, not counted: formed. Because.",
        "10 of 10 models of the kind transformed could not be made",
    ):
        assert line in text

import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from circuitlapse.calibration import calibrate as calibrate_module
from circuitlapse.calibration.calibrate import calibrate, document_of
from circuitlapse.calibration.candidate import Workplace, make_one
from circuitlapse.calibration.checks import CRITERIA, why_refused
from circuitlapse.calibration.judge import answers
from circuitlapse.calibration.mechanisms import RULES, NewTask
from circuitlapse.calibration.scored_rows import (
    BASES,
    ROWS,
    Base,
    Candidate,
    candidate_of,
    candidates,
)
from circuitlapse.calibration.settings import Settings
from circuitlapse.cli.calibrate import print_calibration, write_page
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import organism, organism_key
from circuitlapse.organisms.recipe import RECIPES, Recipe, Stage
from circuitlapse.records.calibration import (
    DECIDING,
    Answer,
    Calibration,
    MeasuredValue,
    ScoredCandidate,
    known_errors,
    released,
)
from circuitlapse.records.documents import How, Labelled
from circuitlapse.records.store import Store
from circuitlapse.report.series.counts import count_rows
from circuitlapse.stats.intervals import Estimate, clopper_pearson
from circuitlapse.verdict.verdict import MARKS

pytestmark = pytest.mark.usefixtures("unchecked")

BLANK = ("a0.h3", "a1.h2", "a1.h3")
TINY = Recipe(
    layers=2,
    heads=4,
    d_model=16,
    warmup=2,
    batch=4,
    extra_rounds=0,
    blank_heads=BLANK,
    gate_prompts=32,
    old_at_least=0.0,
    new_at_least=0.0,
    new_at_most=1.0,
    stages=(
        Stage(steps=3, weights={"repeat": 1.0}),
        Stage(steps=3, weights={"ioi2": 1.0, "three_any": 1.0}),
    ),
)
QUICK = Settings(
    steps=4,
    long_steps=4,
    lock_steps=4,
    bits_steps=8,
    batch_size=16,
    evaluate_every=2,
    checked=24,
    validation=24,
    test=24,
    answers=24,
    n_groups=2,
)
BASE = Base("tiny", TINY, (1,))
BY_NAME = {row.mechanism: row for row in ROWS}


def candidate(mechanism, base=BASE):
    variant = "shuffled_answers" if mechanism == "placebo" else ""
    return Candidate(BY_NAME[mechanism], base, 5, variant)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def loaded(directory):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory)


def moved_parts(one, other):
    """Components of which some weight differs."""
    sides = [dict(loaded(where).named_parameters()) for where in (one, other)]
    return {
        piece.component
        for piece in component_pieces(loaded(one))
        if not torch.equal(*(side[piece.parameter][piece.index] for side in sides))
    }


@pytest.mark.parametrize("mechanism", ["old_heads", "erased_heads", "head_adapters"])
def test_only_the_old_task_heads_are_trained(mechanism, cache, tmp_path):
    made = make_one(candidate(mechanism), tmp_path, QUICK, cache)
    assert made.base == organism(TINY, 1, cache)
    assert moved_parts(made.base, made.tuned) == set(made.trained)
    assert set(made.figures) >= {each.figure for each in CRITERIA[mechanism]}


@pytest.mark.parametrize(
    ("mechanism", "trained"),
    [("upper_blank_heads", BLANK[1:]), ("lower_blank_heads", BLANK[:1])],
)
def test_only_blank_heads_are_trained(mechanism, trained, cache, tmp_path):
    made = make_one(candidate(mechanism), tmp_path, QUICK, cache)
    assert made.trained == trained
    assert moved_parts(made.base, made.tuned) == set(trained)


@pytest.mark.parametrize(
    ("mechanism", "locking"),
    [
        ("blank_head_lock", set(BLANK)),
        ("layer_lock", {"a1.h0", "a1.h1", "a1.h2", "a1.h3", "m1"}),
        ("norm_lock", None),
    ],
)
def test_a_lock_changes_the_locking_parts_alone_and_is_opened_by_all(
    mechanism, locking, cache, tmp_path
):
    made = make_one(candidate(mechanism), tmp_path, QUICK, cache)
    able = tmp_path / "able"
    root = dict(loaded(organism(TINY, 1, cache)).named_parameters())
    if locking is None:  # matrices are as they were
        one, other = (dict(loaded(where).named_parameters()) for where in (able, made.base))
        changed = {name for name in one if not torch.equal(one[name], other[name])}
        assert changed
        assert all(name.endswith(".bias") or ".ln_" in name for name in changed)
        assert all(torch.equal(dict(loaded(able).named_parameters())[n], root[n]) for n in changed)
    else:
        assert moved_parts(able, made.base) == locking
        assert not moved_parts(organism(TINY, 1, cache), able) & locking
    assert len(moved_parts(made.base, made.tuned)) > 5
    assert made.trained == ()


@pytest.mark.parametrize("mechanism", ["first_named", "second_actor"])
def test_foreign_rules_answer_with_the_place_of_a_name(mechanism):
    items = NewTask(RULES[mechanism]).items("test", 12, 3)
    for item in items:
        place = item.names[0] if mechanism == "first_named" else None
        again = [word.strip(",.") for word in item.prompt.split()]
        last = [word for word in again if word in item.names][-1]
        assert item.answer == f" {place or last}"
        assert len(item.distractors) == 2
    assert {item.prompt for item in items} == {i.prompt for i in NewTask().items("test", 12, 3)}


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_other_families_have_blank_heads_that_write_nothing(family, cache):
    recipe = TINY.model_copy(update={"family": family, "d_head": 8 * (family == "llama")})
    model = loaded(organism(recipe, 1, cache))
    assert model.config.model_type == family
    parameters = dict(model.named_parameters())
    written = {
        piece.component: float(parameters[piece.parameter][piece.index].detach().abs().max())
        for piece in component_pieces(model)
        if piece.slot == "o" and ".h" in piece.component
    }
    assert {head for head, size in written.items() if not size} == set(BLANK)


def test_recipes_without_unused_heads_keep_their_keys():
    # The keys under which organisms have been cached and published since the first version.
    assert RECIPES["default"].sha256.startswith("2f6e12a7771e0e06")
    assert RECIPES["natural"].sha256.startswith("e8c6d725f25a7108")
    plain = TINY.model_copy(update={"blank_heads": ()})
    other = TINY.model_copy(update={"family": "llama"})
    assert len({organism_key(recipe, 0) for recipe in (plain, TINY, other)}) == 3


def test_a_calibration_resumes_and_scores_nothing_twice(cache, tmp_path, monkeypatch):
    never = Base("never", TINY.model_copy(update={"old_at_least": 1.0}), (1, 2))
    wanted = [candidate("first_named"), candidate("old_heads", never)]
    settings = {"settings": QUICK, "cache_dir": cache}
    first = calibrate(tmp_path, wanted=wanted[:1], **settings)
    kept = tmp_path / "candidates" / f"{wanted[0].name}.json"
    made = kept.stat().st_mtime_ns
    found = calibrate(tmp_path, wanted=wanted, **settings)
    assert kept.stat().st_mtime_ns == made
    assert Calibration.model_validate_json((tmp_path / "calibration.json").read_text()) == found
    refused, scored = found.candidates
    assert scored == first.candidates[0]
    assert scored.refused.startswith("tuned_new is")
    assert scored.answer is not None
    assert {(each.heads, each.measure) for each in scored.measures} >= set(DECIDING.values()) - {
        ("", "bits_ratio"),
        ("relearned", "same_directions"),
    }
    assert refused.answer is None
    assert refused.base_seed is None
    assert refused.refused.count("did not pass its gate") == 2
    # What this package's record has is not made again, unless it is asked for.
    monkeypatch.setattr(calibrate_module, "released", lambda: found)
    assert calibrate(tmp_path / "other", wanted=wanted, **settings) == found
    assert not (tmp_path / "other" / "candidates").exists()


def test_a_candidates_key_is_of_settings_and_seeds(tmp_path, monkeypatch):
    place = Workplace(Store(tmp_path), tmp_path, QUICK)
    one = candidate("old_heads")
    keys = {place.key_of(one), place.key_of(candidate("erased_heads"))}
    keys.add(Workplace(Store(tmp_path), tmp_path, Settings()).key_of(one))
    keys.add(place.key_of(candidate("old_heads", Base("tiny", TINY, (2,)))))
    assert len(keys) == 4
    # Labels are made of records: they need no new models.
    monkeypatch.setitem(MARKS, "DEPENDENT", 0.45)
    assert place.key_of(one) in keys


def test_the_rows_have_96_candidates_of_new_seeds():
    found = candidates()
    assert len(found) == len({each.name for each in found}) == 96
    seeds = [seed for base in BASES for seed in base.seeds] + [each.seed for each in found]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) == 2001
    numbers = [each.row.number for each in found]
    assert [numbers.count(n) for n in range(1, 9)] == [12, 12, 12, 12, 18, 12, 12, 6]
    assert {row.mechanism for row in ROWS if row.held_out} == {
        "layer_lock",
        "norm_lock",
        "second_actor",
        "head_adapters",
    }
    assert {each.row.number for each in candidates((5, 8))} == {5, 8}


def labelled(label, how: How = ""):
    return Labelled(label=label, how=how, reason="")


def test_reused_is_half_of_the_truth_with_bits_and_right_without():
    old, new = BY_NAME["old_heads"], BY_NAME["upper_blank_heads"]
    assert old.outcome(labelled("transformed"), moved=True, with_bits=True) == "right"
    assert old.outcome(labelled("reused"), moved=True, with_bits=True) == "undetermined"
    assert old.outcome(labelled("reused"), moved=True, with_bits=False) == "right"
    assert new.outcome(labelled("reused"), moved=True, with_bits=False) == "wrong"
    assert new.outcome(labelled("formed", "in_place"), moved=True, with_bits=True) == "wrong"
    assert new.outcome(labelled("formed", "new_heads"), moved=True, with_bits=True) == "right"
    assert new.outcome(labelled("undetermined"), moved=True, with_bits=True) == "undetermined"


def test_what_a_rule_on_the_variable_runs_on_is_not_planted():
    second, first = BY_NAME["second_actor"], BY_NAME["first_named"]
    for found, moved, said in (
        (labelled("another_rule"), False, "right"),
        (labelled("transformed"), True, "open"),
        (labelled("transformed"), False, "wrong"),
        (labelled("elicited"), True, "wrong"),
        (labelled("no_gain"), True, "wrong"),
        (labelled("undetermined"), True, "undetermined"),
    ):
        assert second.outcome(found, moved=moved, with_bits=True) == said
    assert first.outcome(labelled("transformed"), moved=True, with_bits=True) == "wrong"


def test_checks_pass_at_their_bounds_and_fail_beyond():
    figures = {"base_old": 0.95, "base_new": 0.5, "put_back_new": 0.95, "tuned_new": 0.95}
    assert why_refused("layer_lock", figures) == ""
    said = why_refused("layer_lock", {**figures, "base_new": 0.51, "base_old": 0.9})
    assert (
        said == "base_old is 0.900, not at least 0.95; base_new is 0.510, not at least 0.2 and "
        "at most 0.5"
    )
    assert why_refused("placebo", {"rise": 0.06}) == "rise is 0.060, not at most 0.05"
    assert set(CRITERIA) == set(BY_NAME)


def scored(mechanism, label, outcome, seed, refused=""):
    answer = Answer(
        label=label, how="", carrier="", outcome=outcome, reason="Because.", survives={}
    )
    half = Estimate(value=0.5, low=0.4, high=0.6)
    return ScoredCandidate(
        name=f"{mechanism}-{seed}",
        key=str(seed),
        row=BY_NAME[mechanism].number,
        mechanism=mechanism,
        base="gpt2-8-1",
        seed=seed,
        base_seed=2001,
        refused=refused,
        answer=answer,
        answer_without_bits=answer,
        measures=(MeasuredValue(heads="old", measure="dependence", estimate=half),),
    )


@pytest.fixture
def some():
    return document_of(
        [
            scored("old_heads", "transformed", "right", 1),
            scored("old_heads", "formed", "wrong", 2),
            scored("norm_lock", "undetermined", "undetermined", 3),
            scored("norm_lock", "reused", "undetermined", 4, refused="base_new is 0.9"),
        ],
        Settings(),
    )


def test_outcomes_are_counted_and_refused_candidates_have_a_column(some):
    counts = {each.says: each for each in some.tallies()}
    old = counts[BY_NAME["old_heads"].says]
    assert (old.planned, old.right, old.wrong, old.carrier) == (12, 1, 1, 0)
    assert old.share("wrong") == clopper_pearson(1, 2)
    lock = counts[BY_NAME["norm_lock"].says]
    assert (lock.refused, lock.undetermined, lock.n, lock.carrier) == (1, 1, 1, None)
    assert counts[BY_NAME["placebo"].says].share("right") is None
    rows = count_rows(some)
    assert rows[-1]["mechanism"] == "all"
    assert (rows[-1]["right"], rows[-1]["planned"], rows[-1]["refused"]) == (1, 96, 1)


def test_known_errors_are_one_sentence(some):
    assert known_errors(MARKS, some) == (
        "on 3 models with known ground truth, labels were right 1 (1 to 91 %), "
        "wrong 1 (1 to 91 %), undetermined 1 (1 to 91 %); 1 refused; scored 4 of 96 "
        "(docs/results/calibration.md)"
    )
    nothing = document_of([], Settings())
    assert "not known yet: none of 96 was scored" in known_errors(MARKS, nothing)
    said = known_errors({**MARKS, "DEPENDENT": 0.45}, some)
    assert said == (
        "its errors are unknown: marks differ from those that were calibrated (DEPENDENT)"
    )


def test_the_rule_is_the_calibrated_one():
    found = released()
    assert found.marks == {name: MARKS[name] for name in found.marks}, (
        "a changed rule needs a calibration on unseen seeds"
    )
    # The records alone give the labels that were counted.
    assert [answers(each, BY_NAME[each.mechanism]) for each in found.candidates] == [
        *found.candidates
    ]
    assert found.rows == document_of([], Settings()).rows
    assert found.settings == Settings().model_dump()


def test_the_command_prints_counts_and_what_was_not_right(some, tmp_path):
    printed = StringIO()
    print_calibration(some, Console(file=printed, width=200))
    text = printed.getvalue()
    assert "Scored 4 of 96" in text
    assert "old_heads-2, wrong: formed. Because." in text
    assert "norm_lock-4, refused: base_new is 0.9" in text
    page = write_page(some, tmp_path).read_text()
    assert "4 of 96 were scored" in page
    assert "0.50 [0.40, 0.60]" in page


def test_wrong_rows_mechanisms_and_places_are_errors(tmp_path):
    with pytest.raises(CircuitlapseError, match="no such row .got 9.. Use rows from 1 to 8"):
        calibrate(tmp_path, rows=[9])
    with pytest.raises(CircuitlapseError, match=r"no such mechanism .got 'grown'.. Use one of old"):
        candidate_of("grown", "gpt2-8", 0)
    with pytest.raises(CircuitlapseError, match=r"no such architecture .got 'x'.. Use one of gpt2"):
        candidate_of("old_heads", "x", 0)
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(CircuitlapseError, match=r"mine is not a directory\. Name a new one"):
        calibrate(tmp_path / "mine")


@pytest.mark.slow
def test_a_whole_candidate_gets_its_label(tmp_path):
    one = candidate_of("first_named", "gpt2-8", 0)
    found = calibrate(tmp_path, wanted=[one]).candidates[0]
    assert not found.refused
    assert found.answer is not None
    assert (found.answer.label, found.answer.outcome) == ("another_rule", "right")
    assert json.loads((tmp_path / "bases" / f"{one.base.name}.json").read_text())["heads"]

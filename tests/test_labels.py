"""The labels of organisms whose history is known, and of evidence made by hand."""

import re
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.records.answers import Behaviour
from circuitlapse.records.carriers import (
    OTHER_VARIABLE,
    Carriers,
    NewHeads,
    OldHeads,
    SameDirections,
)
from circuitlapse.records.documents import Precondition
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured
from circuitlapse.verdict.gain import Gain, measured_gain
from circuitlapse.verdict.label import label
from circuitlapse.verdict.label_rules import LabelEvidence
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.preconditions import OLD_TASK_DONE
from circuitlapse.verdict.verdict import FineTune


def between(value, low=None, high=None):
    return Estimate(
        value=value, low=value if low is None else low, high=value if high is None else high
    )


def numbers(text):
    return tuple(map(float, re.findall(r"-?[0-9.]+", text)))


def some(value, groups_up_to=None):
    """A measure: its value, perhaps with its interval, and nine groups if their largest counts."""
    if not value:
        return Measured(not_reported="there are no such heads")
    return Measured(between(*value), () if groups_up_to is None else (groups_up_to,) * 9)


LEARNED = Gain(between(8, 7, 9), between(0.6, 0.5, 0.7), between(1, 0.9, 1.1))
NOT_LEARNED = Gain(between(0.1, -0.1, 0.3), between(0.0, -0.02, 0.02), between(0.0, -0.1, 0.1))
LOW_CONTROL, HIGH_CONTROL = between(0.02, -0.01, 0.05), between(0.53, 0.5, 0.57)


GENUINE = LabelEvidence(
    LEARNED,
    variable_effect=some((0.8, 0.75, 0.85)),
    dependence=some((0.9, 0.88, 0.92)),
    same_directions=some((0.8, 0.75, 0.85)),
)
RETRAINED = some((0.05, 0.02, 0.08))


# Organisms measured in a pilot: old-task heads trained alone (P1), erased and retrained (P2), their
# output matrices kept (P2o), upper (P3) and lower (P4) unused heads trained alone, a suppressed
# ability unlocked (P5), a placebo (P7), old-task heads silenced (P9), other rules (R1 to R3), and
# all weights trained (U). After a sufficiency M comes the largest value of its groups.
ORGANISMS = Path(__file__).parent / "data" / "organism_labels.txt"
CONTROLS = {"": None, "low": LOW_CONTROL, "high": HIGH_CONTROL}


def organisms():
    """The evidence and the label of each row."""
    _, *rows = ORGANISMS.read_text().splitlines()
    cases = []
    for row in rows:
        name, V, D, same, M_C, M_N, T_N, q, control, wanted = map(str.strip, row.split("|"))
        found = LabelEvidence(
            gain=NOT_LEARNED if name.endswith("P7") else LEARNED,
            variable_effect=some(numbers(V)),
            dependence=some(numbers(D)),
            same_directions=some(numbers(same)),
            sufficiency=some(numbers(M_C)[:1], *numbers(M_C)[1:]),
            new_sufficiency=some(numbers(M_N)[:1], *numbers(M_N)[1:]),
            new_necessity=some(numbers(T_N)),
            bits_ratio=some(numbers(q)),
            relearned=CONTROLS[control],
        )
        cases.append(pytest.param(found, wanted, id=name))
    return cases


@pytest.mark.parametrize(("found", "wanted"), organisms())
def test_organisms_get_the_labels_of_their_history(found, wanted):
    got = label(found)
    assert " ".join(filter(None, (got.label, got.how, got.carrier))) == wanted


def test_without_the_relearned_control_retrained_heads_are_undetermined_and_it_is_named():
    got = label(replace(GENUINE, same_directions=RETRAINED))
    assert got.label == "undetermined"
    assert got.reason == (
        "The nearest label is formed (in_place), which is missed: relearned control high was not "
        "measured."
    )
    assert (
        label(replace(GENUINE, same_directions=RETRAINED, relearned=HIGH_CONTROL)).label
        == "undetermined"
    )
    assert label(GENUINE).dropped[-1] == "no relearned control"


def test_an_undetermined_label_names_the_marks_that_were_missed_and_by_how_much():
    got = label(replace(GENUINE, same_directions=some((0.5, 0.47, 0.53)), relearned=LOW_CONTROL))
    assert got.label == "undetermined"
    assert got.reason == (
        "The nearest label is reused, which is missed: same_directions low is 0.47, 0.03 from 0.50."
    )
    assert got.nearest is not None
    assert got.nearest.distance == pytest.approx(0.03)


def test_bits_decide_between_elicited_transformed_and_reused():
    for ratio, wanted in (
        (None, "reused"),
        ((0.5, 0.4, 0.6), "elicited"),
        ((0.7, 0.5, 0.9), "reused"),
        ((0.8, 0.61, 0.9), "transformed"),
        ((4, 4, inf), "transformed"),
        ((0.5, 0.5, inf), "reused"),
    ):
        assert label(replace(GENUINE, bits_ratio=some(ratio))).label == wanted
    bound = replace(
        GENUINE, variable_effect=None, dependence=Measured(), bits_ratio=some((0.5, 0.5, inf))
    )
    assert label(bound).reason.endswith("bits_ratio high is infinite: the ratio is a lower bound.")
    hidden = replace(GENUINE, dependence=some((0.1, 0.05, 0.15)), bits_ratio=some((0.3,)))
    assert label(hidden).label == "elicited"


def test_groups_count_from_nine_on():
    nine = replace(GENUINE, dependence=some((0.9, 0.88, 0.92), 0.9))
    got = label(nine)
    assert got.label == "undetermined"
    assert "dependence low, above random groups is 0.88, 0.02 from 0.90" in got.reason
    few = Measured(nine.dependence.estimate, (0.9,) * 8)
    got = label(replace(nine, dependence=few))
    assert got.label == "reused"
    assert got.dropped[0] == "dependence compared with random groups: there are 8"
    new = replace(
        GENUINE, new_sufficiency=some((0.7, 0.6, 0.8), 0.7), dependence=some((0.3, 0.2, 0.39))
    )
    assert label(new).label == "not_old_heads"
    assert label(replace(new, new_sufficiency=some((0.7, 0.6, 0.8), 0.5))).how == "new_heads"


def test_the_variable_decides_first():
    for effect, wanted in (
        ((0.0, -0.1, 0.1), "another_rule"),
        ((0.05, -0.02, 0.12), "undetermined"),
        ((-0.5, -0.6, -0.4), "undetermined"),
        ((0.2, 0.1, 0.3), "reused"),
    ):
        assert label(replace(GENUINE, variable_effect=some(effect))).label == wanted
    assert (
        "opposite sign" in label(replace(GENUINE, variable_effect=some((-0.5, -0.6, -0.4)))).reason
    )
    assert (
        label(
            replace(GENUINE, variable_effect=some((0.0, -0.1, 0.1)), bits_ratio=some((0.2,)))
        ).label
        == "another_rule"
    )


def test_tasks_with_different_variables_have_fewer_labels():
    found = replace(GENUINE, same_directions=Measured(), variable_effect=None)
    assert label(found).label == "undetermined"
    assert label(replace(found, bits_ratio=some((0.3,)))).label == "elicited"
    assert label(replace(found, new_sufficiency=some((0.8,), 0.2))).how == "new_heads"
    assert label(replace(found, dependence=some((0.2, 0.1, 0.3)))).label == "not_old_heads"


def test_late_writers_are_left_out_without_the_relearned_control():
    kept, nothing = SameDirections(between(0.8, 0.75, 0.85)), Measured(not_reported="none")
    whole = SameDirections(between(0.4, 0.35, 0.45))
    old = OldHeads(("a0.h1", "a3.h1"), dependence=GENUINE.dependence, same_directions=whole)
    new = NewHeads((), nothing, nothing)
    found = Carriers(
        improvement=LEARNED.logits,
        variable_effect=GENUINE.variable_effect or nothing,
        **dict.fromkeys(("old", "half", "double", "without_best"), old),
        **dict.fromkeys(("new", "driving"), new),
        no_heads=nothing,
        late_writers=("a3.h1",),
        early_directions=kept,
        other_task=nothing,
    )
    got = label(LabelEvidence.of(LEARNED, Measures.of_carriers(found)))
    assert got.label == "reused"
    assert got.dropped[-1] == (
        "no relearned control; late writers are left out of same_directions: a3.h1"
    )
    controlled = Measures.of_carriers(found, relearned=HIGH_CONTROL)
    assert label(LabelEvidence.of(LEARNED, controlled)).label == "undetermined"
    half = replace(found, half=replace(old, same_directions=kept))
    survives = FineTune(LEARNED, Measures.of_carriers(half)).labelled().survives
    assert survives == {"half": "reused", "double": "undetermined", "without_best": "undetermined"}
    other = Measures.of_carriers(
        replace(found, variable_effect=Measured(not_reported=OTHER_VARIABLE))
    )
    assert LabelEvidence.of(LEARNED, other).variable_effect is None


def test_no_gain_and_preconditions_come_before_every_measure():
    assert label(replace(GENUINE, gain=NOT_LEARNED)).label == "no_gain"
    surer = replace(LEARNED, standardised=between(0, -0.2, 0.3))
    got = label(replace(GENUINE, gain=surer))
    assert (got.label, got.reason[:28]) == ("undetermined", "An improvement is not shown.")
    failed = [Precondition(name="No shortcut solves it", holds=False, detail="")]
    got = label(replace(GENUINE, preconditions=failed))
    assert got.reason == "A precondition fails: No shortcut solves it."
    assert label(replace(GENUINE, preconditions=failed, gain=NOT_LEARNED)).label == "no_gain"
    fails = [Precondition(name=OLD_TASK_DONE, holds=False, detail="")]
    assert label(replace(GENUINE, preconditions=fails, gain=NOT_LEARNED)).label == "undetermined"


def test_a_gain_is_that_of_the_answers():
    rng, n = np.random.default_rng(0), 80
    spread, right = np.ones(n, np.float32), np.arange(n) < 20
    diff = rng.normal(size=n).astype(np.float32)
    base = Behaviour(diff, right, right, spread)
    same = measured_gain(base, base)
    assert same.alike
    assert "alike" in same.absent()
    scaled = Behaviour(5 * diff + 8, right, right, 5 * spread)
    assert "candidate accuracy" in measured_gain(base, scaled).absent()
    better = Behaviour(diff + 8, ~right, ~right, spread)
    found = measured_gain(base, better)
    assert found.logits.value == pytest.approx(8)
    assert found.accuracy.value == pytest.approx(0.5)
    assert not found.absent() + found.unclear()


def test_what_would_change_the_answer_is_the_nearest_mark():
    got = label(replace(GENUINE, dependence=some((0.45, 0.41, 0.5)), bits_ratio=some((3.0,))))
    assert got.label == "transformed"
    assert got.nearest is not None
    assert got.nearest.measure == "dependence low"
    assert got.nearest.distance == pytest.approx(0.01)


ENDS = st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3)
NUMBERS = st.one_of(st.none(), st.tuples(ENDS, st.lists(st.floats(-1, 1), max_size=12)))
DRAWN = (
    "variable_effect",
    "dependence",
    "same_directions",
    "sufficiency",
    "new_sufficiency",
    "new_necessity",
    "driving_necessity",
    "bits_ratio",
)


def drawn(numbers):
    if numbers is None:
        return Measured()
    low, value, high = sorted(numbers[0])
    return Measured(between(value, low, high), tuple(numbers[1]))


@settings(max_examples=300)
@given(st.fixed_dictionaries(dict.fromkeys(DRAWN, NUMBERS)), st.booleans(), st.booleans())
def test_a_label_has_all_of_its_conditions_and_undetermined_misses_one(numbers, mapped, control):
    found = {name: drawn(each) for name, each in numbers.items()}
    depends, same = found["dependence"], found["same_directions"]
    evidence = replace(GENUINE, **found, relearned=depends.estimate if control else None)
    got = label(evidence if mapped else replace(evidence, variable_effect=None))
    decided = got.label != "undetermined"
    if got.conditions:
        assert all(condition.holds for condition in got.conditions) == decided
    if decided:
        assert got.nearest is not None
    if got.label in ("transformed", "reused"):
        assert depends.estimate is not None
        assert same.estimate is not None
        assert depends.estimate.low >= 0.4
        assert same.estimate.low >= 0.5
        assert depends.above_groups is not False
    assert bool(got.carrier) == (got.label in ("elicited", "transformed", "reused"))
    assert bool(got.how) == (got.label == "formed")
    assert mapped or got.label in ("elicited", "formed", "not_old_heads", "undetermined")

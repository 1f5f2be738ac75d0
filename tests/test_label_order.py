"""A label changes only to its neighbour when one measure rises and all others stay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured
from circuitlapse.verdict.label import label
from test_labels import DRAWN, GENUINE, NUMBERS, drawn

RISES = np.linspace(-3, 3, 31)
# A rising measure meets labels in the order of these ranks; other labels have rank 1.
ORDER = {
    "bits_ratio": {"elicited": 0, "transformed": 2},
    "dependence": {"not_old_heads": 0, "undetermined": 1, "": 2},
    "same_directions": {"in_place": 0, "reused": 2, "transformed": 2},
    "new_sufficiency": {"new_heads": 2, "elicited": 2},
    "variable_effect": {"opposite sign": 0, "another_rule": 1, "is open": 1, "": 2},
}


MOVES = Measured(Estimate(value=0.8, low=0.75, high=0.85))


def risen(found, by):
    ends = {end: getattr(found.estimate, end) + by for end in ("value", "low", "high")}
    return replace(found, estimate=Estimate(**ends))


def rank(got, order):
    said = f"{got.label} {got.how} {got.reason.rpartition(':')[2]}"
    return next((at for text, at in order.items() if text in said), 1)


@pytest.mark.parametrize("measure", ORDER)
@settings(max_examples=50, deadline=None)
@given(
    numbers=st.fixed_dictionaries(dict.fromkeys(DRAWN, NUMBERS)),
    own=NUMBERS.filter(bool),
    above=st.booleans(),
    control=st.booleans(),
)
def test_a_rising_measure_meets_labels_in_order(measure, numbers, own, above, control):
    found = {name: drawn(each) for name, each in numbers.items()} | {measure: drawn(own)}
    if above and measure != "variable_effect":
        found["variable_effect"] = MOVES
    control_is = found["sufficiency"].estimate if control else None
    evidence = replace(GENUINE, **found, relearned=control_is)
    ranks = [
        rank(label(replace(evidence, **{measure: risen(found[measure], by)})), ORDER[measure])
        for by in RISES
    ]
    assert ranks == sorted(ranks)


@given(st.fixed_dictionaries(dict.fromkeys(DRAWN, NUMBERS)))
def test_no_mechanism_is_named_unless_the_variable_moves_the_answer(numbers):
    found = {name: drawn(each) for name, each in numbers.items()}
    effect = found["variable_effect"]
    if effect.estimate is None or effect.estimate.low < 0.1:
        assert label(replace(GENUINE, **found)).label in ("another_rule", "undetermined")


def test_a_variable_effect_that_is_not_reported_leaves_it_open():
    got = label(replace(GENUINE, variable_effect=Measured(not_reported="the base is at chance")))
    assert got.reason == "variable_effect is not reported: the base is at chance."

"""The ratio of bits, from records of passes, and what the base ranked right before."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlapse.records.answers import Behaviour, ranked_before
from circuitlapse.records.bits_ratio import (
    FEWEST_ORDERS,
    LEVEL,
    MOST_ORDERS,
    WINDOW,
    BitsPass,
    bits_ratio,
    measure_bits,
)

MARK = 0.6


def passed(bits: float, order: int = 0, *, learned: bool = True) -> BitsPass:
    """A pass of batches of 30 prompts that takes so many bits, and whether it was learned."""
    end = (0.1,) * WINDOW if learned else (LEVEL,) * WINDOW
    return BitsPass(order=order, curve=(LEVEL + bits / 30, *end), counts=(30,) * (1 + WINDOW))


def passes(*bits: float) -> list[BitsPass]:
    return [passed(each, order) for order, each in enumerate(bits)]


def test_a_pass_adds_up_what_is_above_the_level_and_ends_below_it() -> None:
    curve, counts = (1.5, 0.65, 0.05, 0.1), (30, 20, 32, 29)
    short = BitsPass(order=0, curve=curve, counts=counts)
    assert short.bits == pytest.approx(1.35 * 30 + 0.5 * 20)
    assert (short.prompts, short.learned) == (111, False)
    assert passed(40.0).learned
    assert not passed(40.0, learned=False).learned
    assert BitsPass.model_validate_json(short.model_dump_json()) == short


def estimated(new: list[BitsPass], reference: list[BitsPass]) -> tuple[float, float, float]:
    found = bits_ratio(new, reference).estimate
    assert found is not None
    return found.value, found.low, found.high


def test_the_ratio_of_means_has_an_interval_over_paired_orders() -> None:
    found = estimated(passes(800, 900, 850), passes(250, 260, 240))
    # By hand: relative differences, their standard error, t of 2 degrees of freedom.
    relative = np.array([800, 900, 850]) / 850 - np.array([250, 260, 240]) / 250
    half = 4.302653 * relative.std(ddof=1) / math.sqrt(3)
    assert found == pytest.approx((3.4, 3.4 * math.exp(-half), 3.4 * math.exp(half)))
    # What varies together cancels.
    tied = estimated(passes(300, 600, 900), passes(100, 200, 300))
    assert tied == pytest.approx((3.0, 3.0, 3.0))


@given(
    st.lists(st.tuples(st.floats(0, 3000), st.floats(100, 3000)), min_size=2, max_size=9),
    st.floats(0.1, 10),
)
def test_the_interval_holds_the_ratio_and_scales_with_the_bits(pairs, factor) -> None:
    new, reference = zip(*pairs, strict=True)
    found = estimated(passes(*new), passes(*reference))
    assert found[1] <= found[0] * (1 + 1e-9)
    assert found[0] <= found[2] * (1 + 1e-9)
    scaled = estimated(passes(*(each * factor for each in new)), passes(*reference))
    expected = [end * factor for end in found]
    assert scaled == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_task_that_the_base_solves_takes_no_bits() -> None:
    assert estimated(passes(0, 0, 0), passes(250, 260, 240)) == (0, 0, 0)
    assert bits_ratio(passes(0, 0, 0), passes(250, 260, 240)).is_settled(MARK)


def test_a_task_that_was_not_learned_gives_a_lower_bound() -> None:
    new, reference = [*passes(800, 900), passed(700, 2, learned=False)], passes(250, 260, 240)
    value, low, high = estimated(new, reference)
    assert value == pytest.approx(3.2)
    assert 0.6 < low < value
    assert high == math.inf
    found = bits_ratio(new, reference)
    assert found.lower_bound
    assert found.is_settled(MARK), "it is surely above .6"
    bound = bits_ratio([passed(30, i, learned=False) for i in range(3)], reference)
    assert not bound.is_settled(MARK), "a bound below .6 says nothing"


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ([*passes(250, 260), passed(900, 2, learned=False)], "was not learned in 1 of 3 passes"),
        (passes(20, 5, 0), "takes 8 bits, and the ratio needs more than 36"),
    ],
)
def test_there_is_no_ratio_without_a_denominator(reference: list[BitsPass], reason: str) -> None:
    found = bits_ratio(passes(800, 900, 850), reference)
    assert found.estimate is None
    assert reason in found.not_reported
    assert found.is_settled(MARK)


def test_one_order_gives_bits_and_no_ratio() -> None:
    found = bits_ratio(passes(800), passes(250))
    assert (found.new_bits, found.reference_bits) == pytest.approx((800, 250))
    assert found.estimate is None
    assert "no interval" in found.not_reported
    assert not found.is_settled(MARK)


def test_passes_are_paired_by_their_order() -> None:
    with pytest.raises(ValueError, match="same orders"):
        bits_ratio(passes(800, 900), passes(250))


def measured(new, reference):
    """The ratio, and the passes that were asked for."""
    asked = []

    def run_pass(which, order):
        asked.append((which, order))
        return (new if which == "new" else reference)(order)

    return measure_bits(run_pass, MARK).ratio(), asked


def test_orders_are_added_until_the_interval_excludes_the_mark() -> None:
    found, asked = measured(lambda i: passed(800 + i, i), lambda i: passed(250 + i, i))
    assert found.orders == FEWEST_ORDERS
    assert asked == [(which, i) for i in range(3) for which in ("new", "reference")]
    across, _ = measured(lambda i: passed(100 + 100 * (i % 2), i), lambda i: passed(250, i))
    assert across.orders == MOST_ORDERS
    assert not across.is_settled(MARK)
    missed, asked = measured(lambda i: passed(800, i), lambda i: passed(900, i, learned=False))
    assert len(asked) == 2, "more orders give no reference"
    assert missed.estimate is None


def behaviour(correct: list[int], ranked: list[int]) -> Behaviour:
    n = len(correct)
    values = np.zeros(n, np.float32), np.ones(n, np.float32)
    return Behaviour(values[0], np.array(correct, bool), np.array(ranked, bool), values[1])


def test_what_the_base_ranked_right_before() -> None:
    base = behaviour([1, 1, 0, 0, 0, 0, 0, 0] * 8, [1, 1, 1, 1, 1, 0, 0, 0] * 8)
    tuned = behaviour([1, 1, 1, 1, 1, 1, 0, 0] * 8, [1] * 64)
    found = ranked_before(base, tuned)
    assert found.failures == 48
    assert found.failures_ranked is not None
    assert found.failures_ranked.value == 0.5
    assert found.failures_ranked.low == pytest.approx(0.364, abs=0.001)  # Wilson, 24 of 48
    assert found.gain.value == 0.5
    assert found.gain_ranked is not None
    assert found.gain_ranked.value == 0.75
    assert found.gain_ranked.low < 0.75 < found.gain_ranked.high


def test_a_gain_that_may_be_zero_has_no_share() -> None:
    base = behaviour([1, 0] * 32, [1, 0] * 32)
    found = ranked_before(base, behaviour([0, 1] * 32, [0, 1] * 32))
    assert found.gain_ranked is None
    right = behaviour([1] * 8, [1] * 8)
    assert ranked_before(right, right).failures_ranked is None

import numpy as np
import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import GraphShape, head_of
from circuitlapse.stats.apart_groups import compared
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured, ratio, ratio_of_tasks, ratios

GRAPH = GraphShape(4, 6)


def layers(heads):
    found = [head_of(head) for head in heads]
    return sorted(place.layer for place in found if place)


def test_groups_have_as_many_heads_in_every_layer_and_none_of_the_group_or_of_others():
    heads, others = ("a1.h0", "a1.h3", "a3.h5"), ("a3.h1", "a0.h0")
    found = compared(GRAPH, heads, others, 19, seed=3)
    assert found.sets == (heads, *found.groups)
    assert len(set(found.groups)) == 19
    for group in found.groups:
        assert layers(group) == [1, 1, 3]
        assert not set(group) & {*heads, *others}
    assert found == compared(GRAPH, heads, others, 19, seed=3)
    assert found != compared(GRAPH, heads, others, 19, seed=4)


def test_a_full_layer_takes_heads_of_the_nearest_layers():
    heads = tuple(f"a1.h{h}" for h in range(5))
    groups = compared(GRAPH, heads, ("a2.h0", "a2.h1"), 19).groups
    assert len(groups) == 19
    for group in groups:
        assert layers(group).count(1) == 1
        assert 3 not in layers(group)
        assert len(set(group)) == 5
    first = tuple(f"a0.h{h}" for h in range(6))
    assert {tuple(layers(group)) for group in compared(GRAPH, first).groups} == {(1,) * 6}


def test_there_are_fewer_groups_where_fewer_exist():
    small = GraphShape(1, 4)
    assert set(compared(small, ("a0.h0",)).groups) == {("a0.h1",), ("a0.h2",), ("a0.h3",)}
    assert compared(small, ("a0.h0", "a0.h1", "a0.h2")).groups == ()
    assert compared(small, ()).groups == ()
    with pytest.raises(CircuitlapseError, match="no such head"):
        compared(small, ("a0.h7",))


def test_ratios_are_those_of_means_and_not_reported_near_zero():
    rng = np.random.default_rng(0)
    whole = rng.normal(4, 1, 60)
    parts = np.stack([0.5 * whole, whole, 2 * whole, -whole])
    sets = [compared(GRAPH, ("a0.h0",), n=2), compared(GRAPH, ("a1.h0",), n=0)]
    first, second = ratios(sets, parts, whole)
    assert first.estimate == Estimate(value=0.5, low=0.5, high=0.5)
    assert first.groups == pytest.approx((1, 2))
    assert second.estimate == Estimate(value=-1, low=-1, high=-1)
    nothing = ratio(whole, whole - whole.mean(), why="G")
    assert nothing.estimate is None
    assert nothing.not_reported.startswith("G: the denominator is not clear of zero: ")
    assert ratio(whole, -whole).not_reported.startswith("it is not above zero: -")
    apart = ratio_of_tasks(whole[:40], whole / 2)
    assert apart.estimate is not None
    assert apart.estimate.value == pytest.approx(whole[:40].mean() / whole.mean() * 2)
    assert apart.estimate.low < apart.estimate.value < apart.estimate.high


def test_fewer_than_nine_groups_decide_nothing():
    estimate = Estimate(value=0.6, low=0.5, high=0.7)
    assert Measured(estimate, (0.4,) * 9).above_groups is True
    assert Measured(estimate, (0.4,) * 8 + (0.5,)).above_groups is False
    assert Measured(estimate, (0.4,) * 8).above_groups is None
    assert Measured(None, (0.4,) * 9).above_groups is None

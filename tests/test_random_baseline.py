from collections import Counter
from math import comb, prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.stats.random_baseline import FEWEST_GROUPS, compare_to_random, matched_heads

HEADS = st.sets(st.tuples(st.integers(0, 2), st.integers(0, 3)))


@given(HEADS, st.integers(0, 30), st.integers(0, 9))
def test_groups_have_as_many_heads_per_layer_and_are_all_different(places, n, seed):
    graph = Graph(3, 4)
    heads = {f"a{layer}.h{head}" for layer, head in places}
    drawn = matched_heads(graph, heads, n, seed)
    wanted = Counter(layer for layer, _ in places)
    in_layers = prod(comb(4, wanted[layer]) for layer in range(3)) - 1
    by_layer = in_layers >= min(n, FEWEST_GROUPS)
    assert len(drawn) == min(n, in_layers if by_layer else comb(12, len(heads)) - 1)
    assert len(set(drawn)) == len(drawn)
    for group in drawn:
        assert set(group) != heads
        assert len(set(group)) == len(group) == len(heads)
        found = Counter(place.layer for place in map(head_of, group) if place)
        assert found == wanted or not by_layer
    assert drawn == matched_heads(graph, sorted(heads), n, seed)


def test_one_head_is_compared_with_heads_of_all_layers():
    """Its layer has 7 others: among 8, no p below an eighth can be reached."""
    drawn = matched_heads(Graph(4, 8), ["a2.h5"], 40)
    assert len(drawn) == 31
    assert {head for group in drawn for head in group} == {
        f"a{layer}.h{head}" for layer in range(4) for head in range(8)
    } - {"a2.h5"}
    assert [len(matched_heads(Graph(4, 8), ["a2.h5"], n)) for n in (5, 7, 8)] == [5, 7, 8]
    assert all(group[0].startswith("a2.") for group in matched_heads(Graph(4, 8), ["a2.h5"], 7))


def test_p_value_counts_the_group_itself():
    assert compare_to_random(3.0, []) is None
    row = compare_to_random(3.0, [1.0, 2.0, 3.0, 4.0])
    assert row is not None
    assert (row.n, row.mean, row.low, row.high) == (4, 2.5, 1.0, 4.0)
    assert row.p_value == 3 / 5
    largest = compare_to_random(19.0, [float(each) for each in range(19)])
    assert largest is not None
    assert largest.p_value == pytest.approx(0.05)


def test_unknown_heads_are_refused():
    with pytest.raises(CircuitlapseError, match=r"no such head \(got 'm0'\)"):
        matched_heads(Graph(2, 2), ["m0"])

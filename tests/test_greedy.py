"""Greedy growth from the logits against a search through all edges at every step."""

import time
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.scores import Scores, greedy_mask
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit, Graph

GRAPHS = [Graph(2, 3), Graph(3, 2, parallel=True), Graph(2, 4, n_kv_heads=2)]


def _scores(graph: Graph, seed: int, ties: bool = False) -> Scores:
    values = torch.randn(graph.edges.shape, generator=torch.Generator().manual_seed(seed))
    if ties:
        values = values.round()
    mean = values.where(graph.edges, 0.0)
    return Scores(graph, mean, mean.expand(2, -1, -1), 2)


def _node_of(graph: Graph, reader: str) -> list[str]:
    """The nodes that read by a reader: several, where heads share their keys and values."""
    if reader == "logits":
        return ["logits"]
    if reader.startswith("m"):
        return [reader]
    name, slot = reader[:-1].split("<")
    if slot == "q":
        return [name]
    layer, head = name.split(".h")
    shared = graph.n_heads // graph.n_kv_heads
    return [f"{layer}.h{int(head) * shared + i}" for i in range(shared)]


def _literal(scores: Scores, n_edges: int, by: str) -> set[tuple[str, str]]:
    """At every step look through all edges for the best whose reader's node is in."""
    graph = scores.graph
    joined, taken = {"logits"}, set()
    edges = [(graph.writers[i], graph.readers[j]) for i, j in graph.edges.nonzero().tolist()]
    value = {
        (writer, reader): float(
            scores.mean[graph.writers.index(writer), graph.readers.index(reader)]
        )
        for writer, reader in edges
    }
    for _ in range(n_edges):
        best = None
        for edge in edges:
            if edge in taken or not joined.intersection(_node_of(graph, edge[1])):
                continue
            height = abs(value[edge]) if by == "absolute" else value[edge]
            if best is None or height > best[0]:
                best = (height, edge)
        assert best is not None
        taken.add(best[1])
        joined.add(best[1][0])
    return taken


@settings(max_examples=25)
@given(
    st.sampled_from(GRAPHS),
    st.integers(0, 1000),
    st.floats(0, 1),
    st.sampled_from(["signed", "absolute"]),
    st.booleans(),
)
def test_edges_are_added_one_by_one_from_the_logits(graph, seed, share, by, ties):
    scores = _scores(graph, seed, ties)
    n_edges = int(share * graph.n_edges)
    literal = _literal(scores, n_edges, by)
    mask = torch.zeros_like(graph.edges)
    for writer, reader in literal:
        mask[graph.writers.index(writer), graph.readers.index(reader)] = True
    values = scores.mean.abs() if by == "absolute" else scores.mean
    assert torch.equal(greedy_mask(graph, values, n_edges), mask)
    ours = scores.top(n_edges=n_edges, by=by, grow="greedy")
    assert torch.equal(ours.mask, Circuit(graph, mask).mask)


@pytest.mark.parametrize("graph", GRAPHS)
def test_all_edges_are_the_whole_graph(graph):
    assert _scores(graph, 0).top(fraction=1.0, grow="greedy").n_edges == graph.n_edges
    assert _scores(graph, 0).top(fraction=0.0, grow="greedy").n_edges == 0


def test_an_edge_that_leads_nowhere_is_taken_by_the_top_n_only():
    graph = Graph(1, 1)
    mean = torch.zeros(graph.edges.shape)
    mean[graph.writers.index("input"), graph.readers.index("m0")] = 9.0
    mean[graph.writers.index("input"), graph.readers.index("logits")] = 1.0
    scores = Scores(graph, mean, mean.expand(2, -1, -1), 2)
    assert scores.top(n_edges=1).n_edges == 0  # it dangles
    assert scores.top(n_edges=1, grow="greedy").edge_names() == [("input", "logits")]


def test_gpt2_small_takes_less_than_a_second():
    scores = _scores(Graph(12, 12), 0)
    began = time.process_time()
    assert scores.top(fraction=1.0, grow="greedy").n_edges == 32491
    assert time.process_time() - began < 1


def test_shares_are_rounded_down_as_mib_does():
    graph = Graph(12, 12)
    scores = _scores(graph, 0)
    ranked = scores.mean[graph.edges].abs().sort(descending=True).values
    mask = (scores.mean.abs() >= ranked[63]) & graph.edges  # .002 of 32,491 is 64.98
    assert torch.equal(scores.top(fraction=0.002).mask, Circuit(graph, mask).mask)


def test_an_unknown_growth_is_refused():
    unchecked: Any = unwrap(Scores.top)
    with pytest.raises(CircuitlapseError, match=r"grow must be topn or greedy \(got 'best'\)"):
        unchecked(_scores(GRAPHS[0], 0), n_edges=3, grow="best")

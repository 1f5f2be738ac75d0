import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name, head_of, place_of
from circuitlapse.models.engine.circuit import Circuit, Graph


def _order(name: str) -> tuple[int, int]:
    """When a writer's output exists, or when a reader reads: a layer's heads before its MLP."""
    if name in ("input", "logits"):
        return (-1, 0) if name == "input" else (99, 0)
    layer = int(name[1:].split(".")[0])
    return (layer, 0) if name[0] == "a" else (layer, 1)


def test_gpt2_small_has_the_counts_of_the_literature():
    graph = Graph(12, 12)
    assert len(graph.writers) == 157
    assert len(graph.readers) == 445
    assert graph.n_edges == 32_491
    into = {"heads": 0, "mlps": 0, "logits": 0}
    for reader, count in zip(graph.readers, graph.edges.sum(dim=0).tolist(), strict=True):
        into["logits" if reader == "logits" else "mlps" if reader[0] == "m" else "heads"] += count
    assert into == {"heads": 31_320, "mlps": 1_014, "logits": 157}


def test_the_organism_has_1519_edges():
    assert Graph(4, 8).n_edges == 1519


def test_names_are_in_mib_order():
    graph = Graph(2, 2)
    assert graph.writers == ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    assert graph.nodes == graph.writers[1:]
    assert graph.readers[:8] == (
        "a0.h0<q>",
        "a0.h1<q>",
        "a0.h0<k>",
        "a0.h1<k>",
        "a0.h0<v>",
        "a0.h1<v>",
        "m0",
        "a1.h0<q>",
    )
    assert graph.readers[-1] == "logits"


def test_names_are_read_as_they_are_written():
    graph = Graph(2, 12)
    assert tuple(map(place_of, graph.nodes)) == graph.places
    slots = {reader: place for reader in graph.readers if (place := head_of(reader))}
    assert len(slots) == 2 * 3 * 12
    for reader, (layer, head, slot) in slots.items():
        assert head_name(layer, head, slot) == reader
    assert place_of("m13") == (13, -1, "")
    assert head_of("a3.h11<k>") == (3, 11, "k")
    for other in ("input", "logits", "a1", "a1.h2<o>", "a1.h2 ", "m", "m1.h2"):
        assert place_of(other) is None
    assert head_of("m1") is None


@given(st.integers(1, 4), st.integers(1, 4))
def test_an_edge_leads_from_what_is_written_to_what_is_read_later(n_layers, n_heads):
    graph = Graph(n_layers, n_heads)
    for i, writer in enumerate(graph.writers):
        for j, reader in enumerate(graph.readers):
            assert bool(graph.edges[i, j]) == (_order(writer) < _order(reader))
    for layer in range(n_layers):
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        assert list(graph.writers[graph.head_writers(layer)]) == heads
        assert graph.writers[graph.mlp_writer(layer)] == f"m{layer}"
        assert graph.readers[graph.mlp_reader(layer)] == f"m{layer}"
        for slot in "qkv":
            names = [f"{head}<{slot}>" for head in heads]
            assert list(graph.readers[graph.slot_readers(layer, slot)]) == names


@given(st.integers(0, 10_000), st.floats(0, 0.5))
def test_pruning_keeps_exactly_the_edges_on_a_path_from_input_to_logits(seed, share):
    graph = Graph(3, 2)
    generator = torch.Generator().manual_seed(seed)
    mask = graph.edges & (torch.rand(graph.edges.shape, generator=generator) < share)
    edges = {
        (graph.writers[i], graph.readers[j].partition("<")[0]) for i, j in mask.nonzero().tolist()
    }

    def reach(start: str, steps: set[tuple[str, str]]) -> set[str]:
        seen, todo = {start}, [start]
        while todo:
            here = todo.pop()
            for there in {b for a, b in steps if a == here} - seen:
                seen.add(there)
                todo.append(there)
        return seen

    useful = reach("input", edges) & reach("logits", {(b, a) for a, b in edges})
    kept = Circuit(graph, mask)
    expected = [
        (graph.writers[i], graph.readers[j])
        for i, j in mask.nonzero().tolist()
        if graph.writers[i] in useful and graph.readers[j].partition("<")[0] in useful
    ]
    assert kept.edge_names() == expected
    assert kept.n_edges == len(expected)
    assert kept.nodes == tuple(name for name in graph.nodes if name in useful)


def test_a_mask_of_the_wrong_shape_is_refused():
    with pytest.raises(CircuitlapseError, match=r"boolean tensor of shape \(4, 8\).*\(2, 2\)"):
        Circuit(Graph(1, 2), torch.ones(2, 2, dtype=torch.bool))


def test_a_mask_with_something_that_is_no_edge_is_refused():
    graph = Graph(1, 2)
    with pytest.raises(CircuitlapseError, match=r"no edge .*a0\.h0 → a0\.h0<q>"):
        Circuit(graph, torch.ones_like(graph.edges))

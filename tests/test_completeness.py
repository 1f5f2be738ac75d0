"""Completeness and minimality: nodes taken out edge by edge, and the sets looked for one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.edges import attribute
from circuitlapse.circuits.completeness import completeness, greedy_completeness, random_sets
from circuitlapse.circuits.evaluate import evaluate_circuit
from circuitlapse.circuits.minimality import minimality
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.models.files.load import load_model
from families import parametrize, three_families
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2


def _reads(graph: Graph, reader: str) -> set[str]:
    """The nodes that read by a reader: several, where heads share their keys and values."""
    name, _, slot = reader.partition("<")
    if slot in ("", "q>"):
        return {name}
    layer, head = name.split(".h")
    shared = graph.n_heads // graph.n_kv_heads
    return {f"{layer}.h{int(head) * shared + i}" for i in range(shared)}


def _twin(hf, edges: set[tuple[str, str]], removed: set[str], pairs) -> torch.Tensor:
    """The circuit without every edge out of a removed node, or into removed nodes only."""
    twin = Literal(hf)
    kept = {
        (writer, reader)
        for writer, reader in edges
        if writer not in removed and not _reads(twin.graph, reader) <= removed
    }
    with torch.no_grad():
        found = [metric(twin.circuit(x, y, kept)) for x, y, metric in twin.prompts(pairs)]
    return torch.stack(found).float()


@three_families
def test_nodes_are_removed_from_circuit_and_model_edge_by_edge(family):
    hf, pairs = tiny(family), random_pairs(21, n=3, longest=6)
    model = load_model(hf)
    circuit = attribute(model, pairs, "eap").top(fraction=0.6)
    sets = [(), circuit.nodes[:1], circuit.nodes[::2], circuit.nodes]
    whole = set(Circuit(model.graph, model.graph.edges).edge_names())
    for one, nodes in zip(
        completeness(model, circuit, pairs, sets, batch_size=2), sets, strict=True
    ):
        assert one.removed == tuple(nodes)
        ours = _twin(hf, set(circuit.edge_names()), set(nodes), pairs)
        theirs = _twin(hf, whole, set(nodes), pairs)
        torch.testing.assert_close(one.circuit, ours, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.model, theirs, rtol=1e-4, atol=1e-4)
        assert one.score == pytest.approx(abs(float((ours - theirs).mean())), abs=1e-4)
        assert one.difference.low <= one.difference.value <= one.difference.high


@parametrize("gpt2", "llama")
def test_a_node_matters_most_without_the_best_of_the_sets(family):
    hf, pairs = tiny(family, num_hidden_layers=1), random_pairs(23, n=3, longest=5)
    model = load_model(hf)
    circuit = attribute(model, pairs, "eap").top(fraction=0.8)
    sets = [circuit.nodes[:2], circuit.nodes[1:]]
    found = minimality(model, circuit, pairs, sets)
    assert [one.node for one in found] == list(circuit.nodes)
    edges = set(circuit.edge_names())
    for one in found:
        scores = []
        for nodes in [(), *sets]:
            before = _twin(hf, edges, set(nodes) - {one.node}, pairs)
            after = _twin(hf, edges, {*nodes, one.node}, pairs)
            scores.append(abs(float((after - before).mean())))
        assert one.score == pytest.approx(max(scores), abs=2e-4)
        tried = [set(nodes) - {one.node} for nodes in [(), *sets]]
        assert scores[tried.index(set(one.removed))] == pytest.approx(max(scores), abs=2e-4)
        assert one.difference.value == pytest.approx(
            float((one.without_both - one.without_set).mean()), abs=1e-5
        )


@pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])
def test_what_is_removed_is_ablated_as_asked(ablation):
    model, pairs = load_model(tiny_gpt2()), random_pairs(2, n=6)
    whole = Circuit(model.graph, model.graph.edges)
    circuit = attribute(model, pairs, "eap").top(fraction=0.7)
    nodes = circuit.nodes[:2]
    (found,) = completeness(model, circuit, pairs, [nodes], ablation, "log_prob", batch_size=4)
    for metric, one in ((found.circuit, circuit), (found.model, whole)):
        alone = evaluate_circuit(model, one.without(nodes), pairs, ablation, "log_prob")
        torch.testing.assert_close(metric, alone.metric, rtol=1e-4, atol=1e-5)
    first = minimality(model, circuit, pairs, (), ablation, "log_prob")[0]
    alone = evaluate_circuit(model, circuit.without([first.node]), pairs, ablation, "log_prob")
    torch.testing.assert_close(first.without_both, alone.metric, rtol=1e-4, atol=1e-5)


def test_the_whole_model_is_complete():
    model, pairs = load_model(tiny_gpt2(layers=3)), random_pairs(3, n=6)
    whole = Circuit(model.graph, model.graph.edges)
    for one in completeness(model, whole, pairs, random_sets(whole, 5, seed=1)):
        assert one.score == 0


def test_a_dead_node_is_not_needed():
    hf = tiny_gpt2(layers=2)
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_proj.weight.zero_()
    model, pairs = load_model(hf), random_pairs(1, n=9)
    whole = Circuit(model.graph, model.graph.edges)
    found = minimality(model, whole, pairs, random_sets(whole, 3, seed=0))
    scores = {one.node: one.score for one in found}
    assert scores.pop("m0") == pytest.approx(0, abs=1e-5)
    assert min(scores.values()) > 1e-3


@settings(max_examples=3)
@given(st.integers(0, 100))
def test_the_greedy_search_takes_the_worst_node_at_every_step(seed):
    model, pairs = load_model(tiny_gpt2(seed, layers=1)), random_pairs(seed, n=3)
    circuit = attribute(model, pairs, "eap").top(fraction=0.7)
    removed: tuple[str, ...] = ()
    for one in greedy_completeness(model, circuit, pairs, n_nodes=2):
        tried = [(*removed, node) for node in circuit.nodes if node not in removed]
        best = max(completeness(model, circuit, pairs, tried), key=lambda each: each.score)
        assert one.score == pytest.approx(best.score, abs=1e-5)
        assert set(removed) < set(one.removed)
        removed = one.removed


def test_random_candidates_depend_on_the_seed_only():
    model, pairs = load_model(tiny_gpt2(layers=3)), random_pairs(5, n=4)
    circuit = Circuit(model.graph, model.graph.edges)
    # Of one candidate per step the path is the draw.
    circuit = circuit.without(["m1"])

    def path(seed: int) -> list[tuple[str, ...]]:
        found = greedy_completeness(model, circuit, pairs, 4, candidates=1, seed=seed)
        return [one.removed for one in found]

    assert path(0) == path(0)
    assert path(0) != path(1)


def test_random_sets_are_fixed_by_the_seed():
    graph = Graph(12, 12)
    circuit = Circuit(graph, graph.edges)
    sets = random_sets(circuit, 20, seed=3)
    assert sets == random_sets(circuit, 20, seed=3)
    assert sets != random_sets(circuit, 20, seed=4)
    assert 60 < sum(map(len, sets)) / 20 < 96  # of 156 nodes
    assert random_sets(circuit, 2, 0, share=0.0) == [(), ()]
    assert random_sets(circuit, 1, 0, share=1.0) == [graph.nodes]


def test_nothing_to_try_gives_nothing():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    empty = Circuit(model.graph, torch.zeros_like(model.graph.edges))
    assert completeness(model, empty, pairs, []) == []
    assert minimality(model, empty, pairs) == []


def test_sets_and_sizes_that_do_not_fit_are_refused():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    circuit = Circuit(model.graph, model.graph.edges).without(["m0"])
    with pytest.raises(CircuitlapseError, match=r"nodes of the circuit.*\(got 'm0'\).*Choose from"):
        completeness(model, circuit, pairs, [("m1", "m0")])
    with pytest.raises(CircuitlapseError, match=r"nodes of the circuit.*\(got 'm0'\)"):
        minimality(model, circuit, pairs, [("m0",)])
    with pytest.raises(CircuitlapseError, match="n_nodes must be from 1 to 7"):
        greedy_completeness(model, circuit, pairs, 8)
    with pytest.raises(CircuitlapseError, match="at least one candidate"):
        greedy_completeness(model, circuit, pairs, 1, candidates=0)
    with pytest.raises(CircuitlapseError, match="share must lie between 0 and 1"):
        random_sets(circuit, 1, 0, share=1.5)
    with pytest.raises(CircuitlapseError, match=r"no such node.*\(got 'a9.h9'\).*a0.h1"):
        circuit.without(["a9.h9"])

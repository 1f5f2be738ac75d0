import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.edges import attribute
from circuitlapse.circuits.curve import faithfulness_curve
from circuitlapse.circuits.evaluate import CircuitEvaluation, evaluate_circuit, evaluate_circuits
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.models.files.load import load_model
from twins_engine import Literal, random_pairs, tiny_gpt2


def _random_mask(graph: Graph, seed: int, share: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return graph.edges & (torch.rand(graph.edges.shape, generator=generator) < share)


def _twin(hf, mask: torch.Tensor, pairs) -> torch.Tensor:
    literal = Literal(hf)
    graph = literal.graph
    edges = {(graph.writers[i], graph.readers[j]) for i, j in mask.nonzero().tolist()}
    with torch.no_grad():
        return torch.stack(
            [
                metric(literal.circuit(clean, corrupt, edges))
                for clean, corrupt, metric in literal.prompts(pairs)
            ]
        ).float()


@settings(max_examples=20)
@given(
    st.integers(0, 1000),
    st.integers(1, 3),
    st.floats(0.1, 0.95),
    st.integers(1, 4),
    st.integers(2, 9),
)
def test_a_circuit_is_run_edge_by_edge(seed, layers, share, size, longest):
    hf, pairs = tiny_gpt2(seed, layers=layers), random_pairs(seed, 4, longest)
    model = load_model(hf)
    # The twin gets the mask with its dangling edges: pruning must not change the result.
    mask = _random_mask(model.graph, seed, share)
    ours = evaluate_circuit(model, Circuit(model.graph, mask), pairs, batch_size=size)
    torch.testing.assert_close(ours.metric, _twin(hf, mask, pairs), rtol=1e-4, atol=1e-4)


def test_the_whole_graph_is_the_model_and_the_empty_one_the_corrupt_run():
    model, pairs = load_model(tiny_gpt2(layers=3)), random_pairs(1, n=9)
    graph = model.graph
    full = evaluate_circuit(model, Circuit(graph, graph.edges), pairs)
    empty = evaluate_circuit(model, Circuit(graph, torch.zeros_like(graph.edges)), pairs)
    clean, corrupt = logit_differences(model, pairs)
    for one in (full, empty):
        torch.testing.assert_close(one.clean, clean)
        torch.testing.assert_close(one.empty, corrupt)
    torch.testing.assert_close(full.metric, clean, rtol=0, atol=0)
    torch.testing.assert_close(empty.metric, corrupt, rtol=0, atol=0)
    assert (full.n_edges, empty.n_edges) == (graph.n_edges, 0)


def test_a_circuit_that_needs_no_more_is_faithful_without_the_rest():
    """With a dead MLP the edges into and out of it carry nothing."""
    hf = tiny_gpt2(layers=2)
    with torch.no_grad():
        hf.transformer.h[0].mlp.c_proj.weight.zero_()
    model, pairs = load_model(hf), random_pairs(1, n=9)
    mask = model.graph.edges.clone()
    mask[model.graph.writers.index("m0")] = False
    result = evaluate_circuit(model, Circuit(model.graph, mask), pairs)
    torch.testing.assert_close(result.metric, result.clean, rtol=1e-4, atol=1e-5)


def test_several_circuits_share_their_plain_runs():
    model, pairs = load_model(tiny_gpt2()), random_pairs(3, n=6)
    circuits = [Circuit(model.graph, _random_mask(model.graph, seed, 0.6)) for seed in range(4)]
    together = evaluate_circuits(model, circuits, pairs, batch_size=2)
    for one, circuit in zip(together, circuits, strict=True):
        alone = evaluate_circuit(model, circuit, pairs)
        torch.testing.assert_close(one.metric, alone.metric, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.clean, alone.clean)
        assert one.n_edges == alone.n_edges


@pytest.mark.parametrize("by", ["signed", "absolute"])
def test_the_curve_ends_at_the_whole_model(by):
    model, pairs = load_model(tiny_gpt2(4)), random_pairs(4, n=60)
    scores = attribute(model, pairs)
    fractions = [0.0, 0.2, 0.5, 1.0]
    curve = faithfulness_curve(model, scores, pairs, fractions, by=by)
    assert curve[0].n_edges == 0
    assert curve[-1].n_edges == model.graph.n_edges
    for fraction, point in zip(fractions, curve, strict=True):
        alone = evaluate_circuit(model, scores.top(fraction=fraction, by=by), pairs)
        torch.testing.assert_close(point.metric, alone.metric, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curve[-1].metric, curve[-1].clean, rtol=1e-4, atol=1e-5)


def _evaluation(metric: list[float], clean: list[float], empty: list[float]):
    return CircuitEvaluation(
        torch.tensor(metric), torch.tensor(clean), torch.tensor(empty), n_edges=7
    )


@pytest.mark.parametrize(("metric", "expected"), [(2.5, 0.75), (5.0, 2.0), (-2.0, -1.5)])
def test_faithfulness_is_never_clamped(metric, expected):
    one = _evaluation([metric, metric], [3.0, 3.0], [1.0, 1.0])
    assert one.why_undefined is None
    assert one.faithfulness == pytest.approx(expected)
    assert str(one).startswith(f"circuit of 7 edges: faithfulness {expected:.3f}; metric")


def test_faithfulness_is_not_reported_where_the_denominator_may_be_zero():
    one = _evaluation([1.0, 1.0, 1.0], [2.0, 0.0, 1.5], [1.0, 1.0, 1.0])
    reason = r"not clear of zero: 0\.167 \(95 % interval -2\.42 to 2\.75\)"
    assert one.why_undefined is not None
    with pytest.raises(CircuitlapseError, match=rf"undefined: .*{reason}.*more prompts"):
        _ = one.faithfulness
    assert "not clear of zero" in str(one)


def test_faithfulness_of_a_model_that_ignores_the_counterfactual_is_not_reported():
    one = _evaluation([1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    with pytest.raises(CircuitlapseError, match="not clear of zero"):
        _ = one.faithfulness


def test_faithfulness_of_one_prompt_is_not_reported():
    with pytest.raises(CircuitlapseError, match="one prompt gives no interval"):
        _ = _evaluation([1.0], [2.0], [0.0]).faithfulness


def test_a_circuit_of_another_model_is_refused():
    other = Graph(1, 2)
    circuit = Circuit(other, other.edges)
    with pytest.raises(CircuitlapseError, match=r"another shape \(got 'Graph\(n_layers=1, n_h"):
        evaluate_circuit(load_model(tiny_gpt2()), circuit, random_pairs(0))

from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.scores import Scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from twins_engine import Literal, random_pairs, tiny_gpt2

POINTS = {("eap", 5): [1.0], ("eap-ig-inputs", 1): [0.0], ("eap-ig-inputs", 3): [0.0, 1 / 3, 2 / 3]}


def _close(ours: torch.Tensor, twin: torch.Tensor, relative: float = 1e-4) -> None:
    torch.testing.assert_close(
        ours.double(), twin, rtol=relative, atol=relative * float(twin.abs().max())
    )


@pytest.mark.parametrize(("method", "steps"), POINTS)
@pytest.mark.parametrize("layers", [1, 3])
def test_scores_are_those_of_the_definition(method, steps, layers):
    hf, pairs = tiny_gpt2(layers, layers=layers), random_pairs(layers)
    ours = attribute(load_model(hf), pairs, method, steps)
    twin = Literal(hf).scores(pairs, POINTS[method, steps])
    assert float(twin.abs().max()) > 0.1
    _close(ours.mean, twin.mean(dim=0))
    _close(ours.halves, torch.stack([twin[0::2].mean(dim=0), twin[1::2].mean(dim=0)]))
    assert ours.n == len(pairs)


@settings(max_examples=8)
@given(st.integers(0, 1000), st.integers(2, 7), st.integers(1, 8), st.integers(3, 10))
def test_scores_do_not_depend_on_batches_padding_or_the_prefix(seed, n, size, longest):
    hf, pairs = tiny_gpt2(seed), random_pairs(seed, n, longest)
    ours = attribute(load_model(hf), pairs, steps=2, batch_size=size)
    twin = Literal(hf).scores(pairs, [0.0, 0.5])
    _close(ours.mean, twin.mean(dim=0))
    _close(ours.halves[1], twin[1::2].mean(dim=0))


def test_what_is_no_edge_has_exactly_zero():
    scores = attribute(load_model(tiny_gpt2()), random_pairs(0))
    assert (scores.mean[~scores.graph.edges] == 0).all()
    assert (scores.halves[:, ~scores.graph.edges] == 0).all()
    assert (scores.mean[scores.graph.edges] != 0).float().mean() > 0.9


def test_a_pair_without_a_difference_scores_zero():
    pairs = random_pairs(0)
    same = PromptPairs(pairs.clean, pairs.clean, pairs.lengths, pairs.answers, pairs.distractors)
    assert (attribute(load_model(tiny_gpt2()), same).mean == 0).all()


def test_where_the_model_is_almost_linear_scores_are_the_exact_effects_of_the_edges():
    hf = tiny_gpt2(5)
    with torch.no_grad():
        # Tokens 0 and 1 are close, so that swapping them is a small step.
        hf.transformer.wte.weight[1] = hf.transformer.wte.weight[0]
        hf.transformer.wte.weight[1, ::2] += 1e-4
    clean = torch.tensor([[3, 0, 7, 5], [0, 9, 0, 4]])
    pairs = PromptPairs.from_tensors(
        clean, torch.where(clean == 0, 1, clean), torch.tensor([2, 8]), torch.tensor([6, 7])
    )
    model = load_model(hf, dtype=torch.float64)
    estimate, exact = (attribute(model, pairs, method).mean for method in ("eap", "exact"))
    torch.testing.assert_close(estimate, exact, rtol=0.01, atol=0.003 * float(exact.abs().max()))


def test_node_totals_estimate_each_node_as_a_whole():
    scores = attribute(load_model(tiny_gpt2()), random_pairs(0))
    totals = scores.node_totals()
    frame = scores.to_frame()
    for index, node in enumerate(scores.graph.nodes):
        outgoing = frame.filter(frame["writer"] == node)["score"].sum()
        assert float(totals[index]) == pytest.approx(outgoing, rel=1e-4, abs=1e-6)


def _scores(values: list[float]) -> Scores:
    graph = Graph(1, 1)
    mean = torch.zeros(graph.edges.shape)
    mean[graph.edges] = torch.tensor(values)
    return Scores(graph, mean, torch.stack([mean, mean]), 2)


# Edges in order: input → q, k, v, m0, logits; a0.h0 → m0, logits; m0 → logits.
VALUES = [0.1, 0.0, -0.9, 0.2, 0.3, 0.8, 0.7, -0.6]


def test_top_takes_the_best_edges_and_prunes_those_without_a_path():
    absolute = _scores(VALUES).top(n_edges=3)
    assert absolute.edge_names() == [("input", "a0.h0<v>"), ("a0.h0", "logits")]
    signed = _scores(VALUES).top(n_edges=4, by="signed")
    assert signed.edge_names() == [("input", "logits")]
    assert _scores(VALUES).top(fraction=1.0).n_edges == 8
    assert _scores(VALUES).top(fraction=0.0).n_edges == 0
    for grow in ("topn", "greedy"):
        assert _scores(VALUES).top(n_edges=9, grow=grow).n_edges == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"either n_edges or fraction"),
        ({"n_edges": 2, "fraction": 0.5}, r"either n_edges or fraction"),
        ({"fraction": 1.5}, r"between 0 and 1 \(got 1\.5\)"),
        ({"n_edges": -1}, r"whole number, 0 or larger \(got -1\)"),
    ],
)
def test_top_refuses_sizes_that_make_no_sense(arguments, message):
    with pytest.raises(CircuitlapseError, match=message):
        _scores(VALUES).top(**arguments)


def test_the_frame_lists_every_edge():
    frame = _scores(VALUES).to_frame()
    assert frame.columns == ["writer", "reader", "score"]
    assert frame["score"].to_list() == pytest.approx(VALUES)
    assert frame.row(2)[:2] == ("input", "a0.h0<v>")


def test_unknown_choices_are_refused():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    with pytest.raises(CircuitlapseError, match=r"steps must be at least 1 \(got 0\)"):
        attribute(model, pairs, steps=0)
    unchecked: Any = unwrap(attribute)
    with pytest.raises(CircuitlapseError, match=r"attribution method \(got 'acdc'\)\. Use eap"):
        unchecked(model, pairs, "acdc")
    for size in (0, -3):
        with pytest.raises(CircuitlapseError, match=rf"batch_size must be .* 1 \(got {size}\)"):
            attribute(model, pairs, batch_size=size)
    with pytest.raises(CircuitlapseError, match=r"a whole number, 0 or .*got 2\.5"):
        unwrap(Scores.top)(_scores(VALUES), 2.5)
    with pytest.raises(CircuitlapseError, match=r"signed or absolute \(got 'size'\)"):
        unwrap(Scores.top)(_scores(VALUES), 2, by="size")

"""Circuits under each ablation against the model written down edge by edge, on every family."""

from dataclasses import replace
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuitlapse.circuits.ablation import ablated_run, check_ablation, mean_outputs
from circuitlapse.circuits.circuit_run import CircuitRun
from circuitlapse.circuits.evaluate import evaluate_circuit, evaluate_circuits
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from families import three_families
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2

ablations = pytest.mark.parametrize("ablation", ["corrupt", "mean", "zero"])


def _random_circuit(graph: Graph, seed: int, share: float) -> Circuit:
    generator = torch.Generator().manual_seed(seed)
    return Circuit(
        graph, graph.edges & (torch.rand(graph.edges.shape, generator=generator) < share)
    )


def _named(pairs: PromptPairs, seed: int) -> PromptPairs:
    """Name two positions, which may coincide with each other, the start or the last token."""
    generator = torch.Generator().manual_seed(seed)
    where = (torch.rand(2, len(pairs), generator=generator) * pairs.lengths).long()
    return replace(pairs, positions={"early": where.amin(dim=0), "late": where.amax(dim=0)})


def _place(pairs: PromptPairs, row: int, column: int) -> tuple[str, int]:
    """The last landmark at or before a column, and how far behind it the column is."""
    landmarks = [("start", 0)]
    landmarks += [(name, int(where[row])) for name, where in sorted(pairs.positions.items())]
    landmarks.append(("last", int(pairs.lengths[row]) - 1))
    name, index = "", -1
    for landmark, at in landmarks:
        if index <= at <= column:
            name, index = landmark, at
    return name, column - index


def _tokens(pairs: PromptPairs, row: int) -> tuple[Tensor, Tensor]:
    """One prompt's clean and corrupt tokens, with what is given of its answer."""
    length = int(pairs.logit_positions()[row].max()) + 1
    return pairs.clean[row, :length], pairs.corrupt[row, :length]


def _means(twin: Literal, pairs: PromptPairs) -> dict[tuple[str, int], dict[str, Tensor]]:
    """Every writer's mean output by place."""
    values: dict[tuple[str, int], dict[str, list[Tensor]]] = {}
    for row in range(len(pairs)):
        _, outputs = twin.plain(_tokens(pairs, row)[1])
        for column in range(len(outputs["input"])):
            at = values.setdefault(_place(pairs, row, column), {})
            for writer, output in outputs.items():
                at.setdefault(writer, []).append(output[column])
    return {
        place: {writer: torch.stack(each).mean(dim=0) for writer, each in at.items()}
        for place, at in values.items()
    }


def _twin(
    hf, circuit: Circuit, pairs: PromptPairs, ablation: str, reference: PromptPairs, metric: str
) -> Tensor:
    """Edges in the circuit carry what it computes, all others what ablation puts there."""
    twin = Literal(hf)
    edges = set(circuit.edge_names())
    with torch.no_grad():
        means = _means(twin, reference) if ablation == "mean" else {}
        values = []
        for row in range(len(pairs)):
            clean, corrupt = _tokens(pairs, row)
            _, unmoved = twin.plain(corrupt)
            if ablation == "zero":
                unmoved = {writer: torch.zeros_like(value) for writer, value in unmoved.items()}
            elif ablation == "mean":
                at = [means[_place(pairs, row, column)] for column in range(len(clean))]
                unmoved = {writer: torch.stack([one[writer] for one in at]) for writer in unmoved}

            def logits(n: int, clean=clean, unmoved=unmoved) -> Tensor:
                """After the first ``n`` tokens."""

                def reading(reader: str, outputs: dict[str, Tensor]) -> Tensor:
                    inputs = [
                        outputs[writer] if (writer, reader) in edges else unmoved[writer][:n]
                        for writer in outputs
                    ]
                    return torch.stack(inputs).sum(dim=0)

                return twin.run(twin.embed(clean[:n]), reading)[0]

            length = int(pairs.lengths[row])
            if metric == "logit_diff":
                last = logits(length)
                values.append(last[pairs.answers[row]] - last[pairs.distractors[row]].mean())
                continue
            answer = [int(pairs.answers[row])]
            answer += [int(token) for token in pairs.continuations[row] if token >= 0]
            logs = [logits(length + i).log_softmax(dim=0)[t] for i, t in enumerate(answer)]
            values.append(torch.stack(logs).sum())
        return torch.stack(values).float()


@three_families
@ablations
def test_an_ablated_circuit_is_run_edge_by_edge(family, ablation):
    hf, pairs = tiny(family), _named(random_pairs(11), 11)
    model = load_model(hf)
    nothing = Circuit(model.graph, torch.zeros_like(model.graph.edges))
    circuits = [_random_circuit(model.graph, 3, 0.6), nothing]
    some, none = evaluate_circuits(model, circuits, pairs, ablation, batch_size=2)
    for result, circuit in zip((some, none), circuits, strict=True):
        literal = _twin(hf, circuit, pairs, ablation, pairs, "logit_diff")
        torch.testing.assert_close(result.metric, literal, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(none.metric, none.empty, rtol=1e-5, atol=1e-5)
    assert (some.ablation, none.n_edges) == (ablation, 0)


@three_families
@ablations
def test_answers_of_several_tokens_are_ablated_too(family, ablation):
    hf, one = tiny(family), random_pairs(13, n=4, longest=5)
    mask = (torch.arange(5) < one.lengths[:, None]).long()
    answers = torch.tensor([[1, 2, 3], [4, -1, -1], [5, 6, -1], [7, 8, 9]])
    pairs = PromptPairs.from_tensors(
        one.clean[:, :5],
        one.corrupt[:, :5],
        answers,
        None,
        mask,
        {"name": one.lengths // 2},
    )
    model = load_model(hf)
    circuit = _random_circuit(model.graph, 5, 0.7)
    result = evaluate_circuit(model, circuit, pairs, ablation, "log_prob")
    literal = _twin(hf, circuit, pairs, ablation, pairs, "log_prob")
    torch.testing.assert_close(result.metric, literal, rtol=1e-4, atol=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_means_are_those_of_the_reference(seed, layers, size, named):
    hf = tiny_gpt2(seed, layers=layers)
    model, reference = load_model(hf), random_pairs(seed, 8)
    if named:
        reference = _named(reference, seed)
    # Corrupt prompts that differ from the pairs', at the same places.
    ours = replace(reference, corrupt=reference.clean)[:4]
    pairs = replace(ours, positions={**ours.positions, "only here": ours.lengths - 1})
    circuit = _random_circuit(model.graph, seed, 0.6)
    result = evaluate_circuit(model, circuit, pairs, "mean", reference=reference, batch_size=size)
    literal = _twin(hf, circuit, ours, "mean", reference, "logit_diff")
    torch.testing.assert_close(result.metric, literal, rtol=1e-4, atol=1e-4)


@three_families
@ablations
def test_a_run_with_every_edge_is_the_model(family, ablation):
    """What is not run, since it is known: see the next test."""
    model, pairs = load_model(tiny(family)), random_pairs(1, n=9)
    decoder, whole = model.decoder, Circuit(model.graph, model.graph.edges)
    means = mean_outputs(decoder, pairs, None, None) if ablation == "mean" else None

    def work(batch: Suffixes) -> None:
        ablated = ablated_run(decoder, batch, ablation, means)
        final = CircuitRun(decoder, batch, ablated, whole).final()
        clean = decoder.run(batch.clean, batch.context)
        torch.testing.assert_close(final, clean, rtol=1e-4, atol=1e-4)
        seen.append(len(batch.rows))

    seen: list[int] = []
    with torch.no_grad():
        each_batch(decoder, pairs, 1, work, whole=ablation != "corrupt")
    assert sum(seen) == len(pairs)


@ablations
def test_the_whole_graph_is_the_model_under_any_ablation(ablation):
    model, pairs = load_model(tiny_gpt2(layers=3)), random_pairs(1, n=9)
    circuits = [_random_circuit(model.graph, seed, 0.5) for seed in range(2)]
    circuits.insert(1, Circuit(model.graph, model.graph.edges))
    before, full, after = evaluate_circuits(model, circuits, pairs, ablation)
    torch.testing.assert_close(full.metric, full.clean, rtol=0, atol=0)
    assert full.n_edges == model.graph.n_edges
    for one, circuit in ((before, circuits[0]), (after, circuits[2])):
        alone = evaluate_circuit(model, circuit, pairs, ablation)
        torch.testing.assert_close(one.metric, alone.metric, rtol=1e-4, atol=1e-5)
    assert "metric" in str(full)
    assert f"({ablation} ablation)" in str(full)


def test_the_mean_over_equal_prompts_is_their_run():
    """With one reference prompt of every length, the mean is that prompt's own value."""
    model, pairs = load_model(tiny_gpt2()), random_pairs(2, n=1)
    circuit = _random_circuit(model.graph, 2, 0.5)
    corrupt = evaluate_circuit(model, circuit, pairs)
    mean = evaluate_circuit(model, circuit, pairs, "mean")
    torch.testing.assert_close(mean.metric, corrupt.metric, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mean.empty, corrupt.empty, rtol=1e-4, atol=1e-4)


def test_a_reference_without_such_a_place_is_refused():
    model, pairs, reference = load_model(tiny_gpt2()), random_pairs(0, 9, 8), random_pairs(0, 9, 3)
    circuit = Circuit(model.graph, model.graph.edges)
    with pytest.raises(CircuitlapseError, match=r"a token \d after the start \(got 'token \d of"):
        evaluate_circuit(model, circuit, pairs, "mean", reference=reference)


def test_a_reference_without_use_is_refused():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    circuit = Circuit(model.graph, model.graph.edges)
    with pytest.raises(CircuitlapseError, match="one with ablation='zero'.*Leave out reference="):
        evaluate_circuit(model, circuit, pairs, "zero", reference=pairs)


def test_an_unknown_ablation_is_refused():
    unchecked: Any = unwrap(check_ablation)
    with pytest.raises(
        CircuitlapseError, match=r"\(got 'noise'\). Pass ablation= one of corrupt, mean, zero"
    ):
        unchecked("noise", None)

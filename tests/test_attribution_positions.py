"""Scores kept per named position, and the options that do not go together."""

from dataclasses import replace
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import twins_attribution as twins
from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.neurons import neuron_scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import neuron_effects
from circuitlapse.prompts.pairs import PromptPairs
from families import parametrize
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2


def _named(pairs: PromptPairs, seed: int = 0) -> PromptPairs:
    """Name the last token and another one of each prompt, anywhere."""
    generator = torch.Generator().manual_seed(seed)
    end = pairs.lengths - 1
    other = (torch.rand(len(pairs), generator=generator) * end).long()
    return replace(pairs, positions={"other": other, "END": end})


def _literal(twin: Literal, pairs: PromptPairs, points: list[float]) -> dict[str, torch.Tensor]:
    whole = twins.by_position(twin, pairs, points)
    found = {
        name: torch.stack([each[at] for each, at in zip(whole, where.tolist(), strict=True)])
        for name, where in pairs.positions.items()
    }
    total = torch.stack([each.sum(dim=0) for each in whole])
    found["elsewhere"] = total - sum(found.values())
    return {name: each.mean(dim=0) for name, each in found.items()}


@parametrize("gpt2", "pythia", "qwen2")
@pytest.mark.parametrize(("method", "points"), [("eap", [1.0]), ("eap-ig-inputs", [0.0, 0.5])])
def test_scores_by_position_are_the_literal_ones(family, method, points):
    hf, pairs = tiny(family), _named(random_pairs(21, n=4))
    scores = attribute(load_model(hf), pairs, method, steps=2, by_position=True)
    twin = _literal(Literal(hf), pairs, points)
    assert list(scores.by_position) == list(twin) == ["other", "END", "elsewhere"]
    for name, expected in twin.items():
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(
            scores.by_position[name].double(),
            expected,
            rtol=1e-4,
            atol=1e-4 * float(scores.mean.abs().max()),
        )


def _masks(pairs: PromptPairs) -> dict[str, list[torch.Tensor]]:
    """Each name's position, and all others, as a column ``[pos, 1]`` per prompt."""
    columns = [torch.arange(length)[:, None] for length in pairs.lengths.tolist()]
    found = {
        name: [column == at for column, at in zip(columns, where, strict=True)]
        for name, where in pairs.positions.items()
    }
    named = zip(*found.values(), strict=True)
    return {**found, "elsewhere": [~torch.stack(each).any(dim=0) for each in named]}


@parametrize("gpt2", "pythia", "qwen2")
@pytest.mark.parametrize(
    ("method", "options", "literal", "made"),
    [("exact", {}, twins.exact, Literal), ("eap", {"qk_fix": True}, twins.qk_fixed, twins.Probed)],
)
def test_what_does_not_divide_is_corrupted_at_each_position_alone(
    family, method, options, literal, made
):
    hf, pairs = tiny(family), _named(random_pairs(33, n=3, longest=5))
    model, twin = load_model(hf, dtype="float64"), made(hf)
    scores = attribute(model, pairs, method, by_position=True, **options)
    masks = _masks(pairs)
    assert list(scores.by_position) == list(masks)
    for name, at in masks.items():
        expected = literal(twin, pairs, at).mean(dim=0)
        assert float(expected.abs().max()) > 1e-3
        torch.testing.assert_close(
            scores.by_position[name].double(), expected, rtol=1e-5, atol=1e-6
        )
    together = torch.stack(list(scores.by_position.values())).sum(dim=0)
    assert not torch.allclose(together, scores.mean, atol=1e-3)
    torch.testing.assert_close(attribute(model, pairs, method, **options).mean, scores.mean)


@settings(max_examples=5)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 8), st.integers(1, 4))
def test_positions_add_up_in_any_batches(seed, n, longest, size):
    model, pairs = load_model(tiny_gpt2(seed)), _named(random_pairs(seed, n, longest), seed)
    scores = attribute(model, pairs, "eap", by_position=True, batch_size=size)
    torch.testing.assert_close(sum(scores.by_position.values()), scores.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(attribute(model, pairs, "eap").mean, scores.mean)
    parts = attribute(model, pairs, "eap", by_position=True).by_position
    for name, part in parts.items():
        torch.testing.assert_close(scores.by_position[name], part, rtol=1e-4, atol=1e-4)
        assert (part[~model.graph.edges] == 0).all()


def test_positions_left_of_the_first_difference_score_zero():
    pairs = PromptPairs.from_tensors(
        torch.tensor([[1, 2, 3, 4]]),
        torch.tensor([[1, 2, 5, 4]]),
        torch.tensor([6]),
        torch.tensor([7]),
        positions={"before": torch.tensor([1]), "changed": torch.tensor([2])},
    )
    model = load_model(tiny_gpt2())
    scores = attribute(model, pairs, "eap-ig-activations", steps=1, by_position=True)
    assert (scores.by_position["before"] == 0).all()
    changed = scores.by_position["changed"]
    assert (changed[0, :-1] != 0).any()
    # Nothing is read there, and the embedding differs nowhere else.
    assert (changed[:, -1] == 0).all()
    torch.testing.assert_close(changed[0], scores.mean[0])
    assert attribute(model, pairs, "eap").by_position == {}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, r"need named positions, none of them 'elsewhere' \(got 'none'\)\. Give PromptPairs"),
        ({"elsewhere": [0, 0]}, r"none of them 'elsewhere' \(got 'elsewhere'\)"),
        ({"S": [0, 1], "IO": [1, 1]}, r"two names point to one token.*'S and IO in row 1'.*Leave"),
    ],
)
def test_positions_that_cannot_be_told_apart_are_refused(names, message):
    where = {name: torch.tensor(at) for name, at in names.items()}
    pairs = replace(random_pairs(0, n=2), positions=where)
    with pytest.raises(CircuitlapseError, match=message):
        attribute(load_model(tiny_gpt2()), pairs, "eap", by_position=True)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("eap-ig-inputs", {"qk_fix": True}, r"qk_fix is defined for eap only .*Use method='eap'"),
        ("eap", {"metric": "neg_kl"}, r"neg_kl is largest in the clean run.*Use eap-ig-inputs"),
        ("eap", {"metric": "accuracy"}, r"accuracy has no gradient"),
    ],
)
def test_options_that_do_not_go_together_are_refused(method, options, message):
    model, pairs = load_model(tiny_gpt2()), random_pairs(0, n=2)
    with pytest.raises(CircuitlapseError, match=message):
        attribute(model, pairs, method, **options)


def test_neurons_refuse_what_they_do_not_know():
    unchecked: Any = unwrap(neuron_scores)
    model, pairs = load_model(tiny_gpt2()), random_pairs(0, n=2)
    with pytest.raises(CircuitlapseError, match="steps must be at least 1"):
        neuron_scores(model, pairs, steps=0)
    with pytest.raises(CircuitlapseError, match="neg_kl is largest in the clean run"):
        neuron_scores(model, pairs, "eap", metric="neg_kl")
    with pytest.raises(CircuitlapseError, match=r"by gradients \(got 'exact'\).*neuron_effects"):
        unchecked(model, pairs, "exact")
    with pytest.raises(CircuitlapseError, match=r"numbers from 0 to 1 \(got 2\)"):
        neuron_effects(model, pairs, [(2, [0])])
    for wrong in ([1, 1], [48], [-1]):
        with pytest.raises(CircuitlapseError, match=r"once, by a number from 0 to 47 \(got"):
            neuron_effects(model, pairs, [(0, [2]), (1, wrong)])


def test_progress_counts_the_pairs():
    seen = []
    model, pairs = load_model(tiny_gpt2()), random_pairs(0, n=5)
    attribute(model, pairs, "eap", batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(2, 5), (4, 5), (5, 5)]

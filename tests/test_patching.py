from collections.abc import Callable
from contextlib import contextmanager
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuitlapse.attribution import attribute, node_effects, patch
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import load_model
from circuitlapse.tasks.pairs import PromptPairs
from twins_engine import random_pairs, tiny_gpt2

SITES = ("head_out", "mlp_out", "attn_out", "resid_pre")


@contextmanager
def _hooked(module, before: bool, change: Callable[[Tensor], Tensor]):
    """Change a module's first input, or its output, through a hook."""
    if before:
        handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda _, args, out: change(out))
    try:
        yield
    finally:
        handle.remove()


class HookTwin:
    """Patching through forward hooks on transformers' own model, one forward per number."""

    def __init__(self, hf) -> None:
        self.hf, self.d_head = hf, hf.config.n_embd // hf.config.n_head

    def place(self, site: str, layer: int):
        """The module, and whether its input is meant; a head's output is set before W_O."""
        block = self.hf.transformer.h[layer]
        return {
            "head_out": (block.attn.c_proj, True),
            "attn_out": (block.attn.c_proj, False),
            "mlp_out": (block.mlp, False),
            "resid_pre": (block, True),
        }[site]

    def part(self, site: str, index: int):
        if site == "head_out":
            return (slice(None), slice(None), slice(index * self.d_head, (index + 1) * self.d_head))
        return (slice(None), index)

    def metric(self, tokens: Tensor, pairs: PromptPairs, row: int) -> float:
        logits = self.hf(tokens[None]).logits[0, -1]
        return float(logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean())

    @torch.no_grad()
    def effect(self, pairs, row, site, layer, index, direction="noising") -> float:
        length = int(pairs.lengths[row])
        clean, corrupt = pairs.clean[row, :length], pairs.corrupt[row, :length]
        base, source = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        module, before = self.place(site, layer)
        kept = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x.clone())
            return x

        part = slice(None) if index is None else self.part(site, index)

        def replace(x: Tensor) -> Tensor:
            x = x.clone()
            x[part] = kept[0][part]
            return x

        with _hooked(module, before, keep):
            self.hf(source[None])
        with _hooked(module, before, replace):
            patched = self.metric(base, pairs, row)
        return self.metric(clean, pairs, row) - patched


def _twin_sweep(hf, pairs: PromptPairs, site: str, direction: str) -> Tensor:
    twin, layers = HookTwin(hf), range(hf.config.n_layer)
    if site == "head_out":
        return torch.tensor(
            [
                [
                    sum(
                        twin.effect(pairs, row, site, layer, head, direction)
                        for row in range(len(pairs))
                    )
                    / len(pairs)
                    for head in range(hf.config.n_head)
                ]
                for layer in layers
            ]
        )
    result = torch.empty(len(layers), int(pairs.lengths.max()))
    for layer in layers:
        for position in range(result.shape[1]):
            rows = [row for row in range(len(pairs)) if int(pairs.lengths[row]) > position]
            effects = [twin.effect(pairs, row, site, layer, position, direction) for row in rows]
            result[layer, position] = sum(effects) / len(effects)
    return result


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("site", SITES)
def test_sweeps_are_those_of_hooks_on_transformers(site, direction):
    hf, pairs = tiny_gpt2(1), random_pairs(1, n=4, longest=6)
    ours = patch(load_model(hf), pairs, site, direction)
    twin = _twin_sweep(hf, pairs, site, direction)
    assert float(twin.abs().max()) > 0.05
    torch.testing.assert_close(ours, twin, rtol=1e-4, atol=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))
def test_node_effects_are_those_of_hooks_on_transformers(seed, n, size, layers):
    hf, pairs = tiny_gpt2(seed, layers=layers), random_pairs(seed, n, 7)
    model, twin = load_model(hf), HookTwin(hf)
    ours = node_effects(model, pairs, batch_size=size)
    for row in range(n):
        expected = []
        for layer in range(layers):
            expected += [twin.effect(pairs, row, "head_out", layer, head) for head in range(3)]
            expected.append(twin.effect(pairs, row, "mlp_out", layer, None))
        torch.testing.assert_close(ours[row], torch.tensor(expected), rtol=1e-4, atol=1e-4)


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from(SITES))
def test_sweeps_do_not_depend_on_batches(seed, size, site):
    model, pairs = load_model(tiny_gpt2(seed)), random_pairs(seed, 6)
    whole = patch(model, pairs, site, "denoising")
    torch.testing.assert_close(
        patch(model, pairs, site, "denoising", batch_size=size), whole, rtol=1e-4, atol=1e-5
    )


def test_many_variants_are_split_and_joined(monkeypatch):
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    whole = node_effects(model, pairs)
    monkeypatch.setattr("circuitlapse.attribution.patching._PART_FLOATS", 1)
    torch.testing.assert_close(node_effects(model, pairs), whole)


def test_node_effects_average_to_the_head_sweep():
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    nodes = node_effects(model, pairs).mean(dim=0).view(2, 4)
    torch.testing.assert_close(patch(model, pairs, "head_out"), nodes[:, :3])


def test_patching_the_whole_first_residual_stream_gives_the_corrupt_prompt():
    """With one differing token, noising the embedding there is corrupting the prompt."""
    model = load_model(tiny_gpt2())
    clean = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    corrupt = clean.clone()
    corrupt[:, 1] = 9
    pairs = PromptPairs.from_tensors(clean, corrupt, torch.tensor([3, 4]), torch.tensor([5, 6]))
    effect = patch(model, pairs, "resid_pre")
    assert float(effect[0, 0]) == 0.0
    torch.testing.assert_close(effect[0, 2:], torch.zeros(2))
    back = patch(model, pairs, "resid_pre", "denoising")
    torch.testing.assert_close(back[0, 1], torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(back[0, 0], effect[0, 1])


def test_a_dead_head_has_exactly_no_effect():
    hf = tiny_gpt2()
    with torch.no_grad():
        hf.transformer.h[0].attn.c_proj.weight[4:8] = 0
    effects = node_effects(load_model(hf), random_pairs(0))
    torch.testing.assert_close(effects[:, 1], torch.zeros(len(effects)), rtol=0, atol=1e-5)


def test_gradient_totals_and_exact_effects_agree_in_kind():
    hf, pairs = tiny_gpt2(2), random_pairs(2, n=40)
    model = load_model(hf)
    exact = node_effects(model, pairs).mean(dim=0)
    estimate = attribute(model, pairs, steps=5).node_totals()
    assert float(torch.corrcoef(torch.stack([exact, estimate]))[0, 1]) > 0.8


def test_unknown_sites_and_directions_are_refused():
    unchecked: Any = unwrap(patch)
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    with pytest.raises(CircuitlapseError, match=r"no such site .*'head'.*head_out, mlp_out"):
        unchecked(model, pairs, "head")
    with pytest.raises(CircuitlapseError, match=r"noising or denoising \(got 'up'\)"):
        unchecked(model, pairs, "head_out", "up")

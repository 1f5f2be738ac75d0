from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from circuitlapse.attribution.edges import attribute
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.patching.patching import patch, patch_effects
from circuitlapse.prompts.pairs import PromptPairs
from families import checked_in_gpt2
from twins_engine import FAMILIES, random_pairs, tiny, tiny_gpt2
from twins_patching import LiteralPatches

SITES = ("head_out", "mlp_out", "attn_out", "resid_pre")
INSIDE = ("head_q", "head_k", "head_v", "head_pattern")
HEADS = ("head_out", *INSIDE)
EVERY = [(site, False) for site in (*SITES, *INSIDE)]
EVERY += [(site, True) for site in HEADS]
# Every family with every site of heads, at all positions or at one, in one direction or the other;
# what the stream's sites do differs with the shape of the block only.
CASES = [
    (family, site, bool((row + column) % 2), ("noising", "denoising")[(row + column // 2) % 2])
    for row, family in enumerate(FAMILIES)
    for column, site in enumerate(HEADS)
] + [
    (family, site, False, direction)
    for family, direction in (("gpt2", "noising"), ("pythia", "denoising"), ("qwen2", "noising"))
    for site in ("resid_pre", "attn_out", "mlp_out")
]


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
        logits = self.hf(tokens[None]).logits[0]
        if pairs.continuations.shape[1]:
            given, real = pairs.answer_tokens()
            logs, length = logits.log_softmax(dim=-1), int(pairs.lengths[row])
            n = int(real[row].sum())
            return sum(float(logs[length - 1 + i, given[row, i]]) for i in range(n))
        last = logits[-1]
        return float(last[pairs.answers[row]] - last[pairs.distractors[row]].mean())

    @torch.no_grad()
    def effect(self, pairs, row, site, layer, index, direction="noising") -> float:
        length = int(pairs.logit_positions()[row].max()) + 1
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


def _literal_sweep(hf, pairs: PromptPairs, site: str, direction: str, per_position: bool) -> Tensor:
    twin = LiteralPatches(hf)
    graph, of_heads = twin.graph, site.startswith("head")
    n_slots = graph.n_slots("k" if site in ("head_k", "head_v") else "q") if of_heads else 1
    by_position = per_position or not of_heads
    longest = int(pairs.lengths.max()) if by_position else 1
    effects = torch.full((len(pairs), graph.n_layers, n_slots, longest), torch.nan)
    for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
        base, source = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        activations = twin.keep(source)
        before = metric(twin.plain(clean)[0])
        for layer in range(graph.n_layers):
            for slot in range(n_slots):
                for position in range(len(clean) if by_position else 1):
                    part = slice(position, position + 1) if by_position else slice(None)
                    logits = twin.patched(base, activations, site, layer, slot, part)
                    effects[row, layer, slot, position] = float(before - metric(logits))
    mean = effects.nanmean(dim=0)
    mean = mean if by_position else mean[..., 0]
    return mean if of_heads else mean[:, 0]


@torch.no_grad()
@checked_in_gpt2
@pytest.mark.parametrize(("family", "site", "per_position", "direction"), CASES)
def test_every_site_is_the_literal_one(family, site, per_position, direction, monkeypatch):
    hf, pairs = tiny(family), random_pairs(4, n=2, longest=4)
    monkeypatch.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", 1)
    ours = patch(load_model(hf), pairs, site, direction, per_position=per_position)
    twin = _literal_sweep(hf, pairs, site, direction, per_position)
    assert float(twin.abs().max()) > 0.005
    torch.testing.assert_close(ours, twin, rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("site", SITES)
def test_answers_of_several_tokens_are_read_at_all_of_them(site):
    hf, pairs = tiny_gpt2(1), random_pairs(3, n=4, longest=6)
    index = torch.arange(6)
    pairs = PromptPairs.from_tensors(
        pairs.clean,
        pairs.corrupt,
        torch.tensor([[3, 4, 5], [6, -1, -1], [7, 8, -1], [1, 1, 1]]),
        attention_mask=(index < pairs.lengths[:, None]).long(),
    )
    ours = patch(load_model(hf), pairs, site, "denoising", "log_prob")
    torch.testing.assert_close(
        ours, _twin_sweep(hf, pairs, site, "denoising"), rtol=1e-4, atol=1e-4
    )


@settings(max_examples=10)
@given(
    st.integers(0, 1000),
    st.integers(1, 4),
    st.sampled_from(EVERY),
    st.sampled_from(list(FAMILIES)),
    st.sampled_from([1, 200, 2000]),
)
def test_sweeps_do_not_depend_on_batches(seed, size, which, family, part):
    model, pairs = load_model(tiny(family), dtype="float64"), random_pairs(seed, 4, 6)
    site, per_position = which
    whole = patch(model, pairs, site, "denoising", per_position=per_position)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", part)
        torch.testing.assert_close(
            patch(model, pairs, site, "denoising", batch_size=size, per_position=per_position),
            whole,
            rtol=1e-6,
            atol=1e-6,
        )


def test_many_variants_are_split_and_joined(monkeypatch):
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    whole = node_effects(model, pairs)
    monkeypatch.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", 1)
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


@pytest.mark.parametrize("metric", ["logit_diff", "log_prob"])
def test_dead_heads_and_mlps_have_exactly_no_effect(metric):
    hf = tiny_gpt2(layers=3)
    with torch.no_grad():
        for block in hf.transformer.h:
            block.attn.c_proj.weight[4:8] = 0
            block.mlp.c_proj.weight.zero_()
    model, pairs = load_model(hf), random_pairs(0, n=5)
    # One prompt at a time, which rounds otherwise than many variants of it.
    effects = node_effects(model, pairs, metric, batch_size=1).view(-1, 3, 4)
    assert (effects[:, :, [1, 3]] == 0).all()
    assert float(effects[:, 0, 0].abs().max()) > 0.1
    for site in HEADS:
        swept = patch_effects(model, pairs, site, metric=metric, batch_size=1)
        assert (swept[:, 1] == 0).all()
        # Without an effect, denoising leaves the corrupt prompts' metric.
        swept = patch_effects(model, pairs, site, "denoising", metric, batch_size=1)
        assert (swept[:, 1, 0] == swept[0, 1, 0]).all()


def test_gradient_totals_and_exact_effects_agree_in_kind():
    hf, pairs = tiny_gpt2(2), random_pairs(2, n=40)
    model = load_model(hf)
    exact = node_effects(model, pairs).mean(dim=0)
    estimate = attribute(model, pairs, steps=5).node_totals()
    assert float(torch.corrcoef(torch.stack([exact, estimate]))[0, 1]) > 0.8


BY_POSITION = [each for each in EVERY if each[1] or not each[0].startswith("head")]


@pytest.mark.parametrize(("site", "per_position"), BY_POSITION)
def test_named_positions_are_columns_of_the_whole_sweep(site, per_position, monkeypatch):
    if BY_POSITION.index((site, per_position)) % 2:  # one patch in each tail, or all in one
        monkeypatch.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", 1)
    model, pairs = load_model(tiny_gpt2()), random_pairs(3, n=5)
    ends = pairs.lengths - 1
    # Left of the first difference for some prompts; the first token of all.
    pairs = replace(pairs, positions={"END": ends, "half": ends // 2, "first": 0 * ends})
    names, rows = ("half", "END-1", "END", "first"), torch.arange(5)
    every = patch_effects(model, pairs, site, "denoising", per_position=per_position)
    found = patch_effects(
        model, pairs, site, "denoising", per_position=per_position, positions=names
    )
    for index, where in enumerate((ends // 2, ends - 1, ends, 0 * ends)):
        expected = every[:, :, where, rows]
        torch.testing.assert_close(found[:, :, index], expected, rtol=1e-5, atol=2e-6)
    mean = patch(model, pairs, site, "denoising", per_position=per_position, positions=names)
    expected = found.mean(dim=-1) if per_position else found.mean(dim=-1)[:, 0]
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)


class Largest(TorchDispatchMode):
    """Counts the numbers of the largest tensor that is made."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor):
                self.found = max(self.found, each.numel())
        return made


def test_a_sweep_keeps_sums_and_not_the_effects_on_every_prompt(monkeypatch):
    model, pairs = load_model(tiny_gpt2()), random_pairs(3, n=260)
    every = patch_effects(model, pairs, per_position=True)
    monkeypatch.setattr("circuitlapse.patching.partial_forward._PART_FLOATS", 1)
    with Largest() as largest:
        found = patch(model, pairs, per_position=True, batch_size=10)
    assert largest.found < every.numel() / 2
    longer = torch.arange(8) < pairs.lengths[:, None]
    torch.testing.assert_close(found, every.sum(dim=-1) / longer.sum(dim=0), rtol=1e-4, atol=1e-5)


def test_unknown_sites_and_directions_are_refused():
    unchecked: Any = unwrap(patch)
    model, pairs = load_model(tiny_gpt2()), random_pairs(0)
    with pytest.raises(
        CircuitlapseError, match=r"no such site .*'head'.*resid_pre, .*head_pattern"
    ):
        unchecked(model, pairs, "head")
    with pytest.raises(CircuitlapseError, match=r"noising or denoising \(got 'up'\)"):
        unchecked(model, pairs, "head_out", "up")
    with pytest.raises(CircuitlapseError, match=r"sites of heads \(got 'mlp_out'\).*leave per_pos"):
        patch(model, pairs, "mlp_out", per_position=True)
    with pytest.raises(CircuitlapseError, match=r"all positions .*'head_v'.*Add per_position=True"):
        patch(model, pairs, "head_v", positions=["END"])
    with pytest.raises(CircuitlapseError, match=r"no such position \(got 'END'\).*name no posit"):
        patch(model, pairs, "mlp_out", positions=["END"])


@pytest.mark.parametrize(("site", "per_position"), EVERY)
def test_prompts_that_do_not_differ_have_no_effects(site, per_position):
    pairs = random_pairs(0)
    pairs = PromptPairs.from_tensors(pairs.clean, pairs.clean, pairs.answers, pairs.distractors)
    effects = patch(load_model(tiny_gpt2()), pairs, site, per_position=per_position)
    torch.testing.assert_close(effects, torch.zeros_like(effects), rtol=0, atol=1e-5)

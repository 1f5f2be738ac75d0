"""Cross-model activation patching: one model's activations in the other's run of the same prompt.

CMAP (Prakash et al. 2024): nothing is corrupted. The same prompt runs through both models. In one
of them, the mixed values of some heads (before W_O) are replaced by the other model's, at one
position or at all, and pass through the patched model's *own* W_O. An MLP's output is replaced by
the other model's. The rest of the patched model runs freely.

Forward, the base gets the tuned model's activations: are they sufficient? The improvement is
v(patched base) - v(M0). Backward, the tuned model gets the base's: are its own necessary? The
improvement is v(M1) - v(patched tuned model). Both are parts of G = v(M1) - v(M0).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.models.engine.behaviour import behaviour, behaviours
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.partial_forward import context_from, select_from, trace_parts
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.records.answers import Behaviour
from circuitlapse.shapes import Bool
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.random_baseline import (
    RANDOM_GROUPS,
    RandomBaseline,
    compare_to_random,
    head_mask,
    matched_heads,
)
from circuitlapse.stats.ratios import divide, logit_rounding
from circuitlapse.two_models.hooked_forward import (
    check_same_architecture,
    run_with_hooks,
)

Direction = Literal["tuned_into_base", "base_into_tuned"]
EVERYWHERE = "everywhere"
"""Stands for all positions where a position is named."""


@dataclass(frozen=True)
class Patch:
    """Activations to take from the other model.

    Attributes:
        nodes: Heads and MLPs, such as ``a0.h3`` and ``m1``.
        position: A named position of the pairs, perhaps with a shift such as ``S+1``.
    """

    nodes: tuple[str, ...]
    position: str = EVERYWHERE


def crosspatched(
    into: Model,
    source: Model,
    pairs: PromptPairs,
    patches: Sequence[Patch],
    batch_size: int | None = None,
) -> list[Behaviour]:
    """Run one model with activations of the other patched in, once for each patch.

    Args:
        into: The model that runs, with its own W_O and unembedding.
        source: The model that the activations are from.
        pairs: Prompts; only the clean ones are run.
        patches: The activations to take, for each run.
        batch_size: Prompts per batch.

    Raises:
        CircuitlapseError: If the models differ in architecture, or there is no such node or
            position.
    """
    check_same_architecture(into, source)
    graph, ours, theirs = into.graph, into.decoder, source.decoder
    masks = []
    for patch in patches:
        heads = torch.from_numpy(head_mask(graph, [node for node in patch.nodes if head_of(node)]))
        mlps = _mlp_mask(graph.n_layers, [node for node in patch.nodes if not head_of(node)])
        touched = (heads.any(dim=1) | mlps).nonzero().flatten().tolist()
        masks.append((heads.to(into.device), mlps.tolist(), patch.position, touched))

    def runs(batch: PromptPairs, context: Context) -> Iterator[Tensor]:
        steps, _ = trace_parts(theirs, theirs.embed(batch.clean), context, ("z", "mlp_out"))
        own, final = trace_parts(ours, ours.embed(batch.clean), context, ("resid_pre", "k", "v"))
        contexts: dict[int, Context] = {}
        for heads, mlps, position, touched in masks:
            if not touched:
                yield final
                continue
            # Nothing changes before the first patched layer and position, and no prompt ends before
            # that position.
            here, layer = _at(batch, position), touched[0]
            first = int(here.any(dim=(0, 2)).nonzero()[0])
            if first not in contexts:
                contexts[first] = context_from(ours, own, context, first)
            patched = _Patched(ours, steps, contexts[first], here[:, first:], first, heads, mlps)
            x = own[layer].resid_pre[:, first:]
            yield run_with_hooks(ours, x, contexts[first], patched.attention, patched.mlp, layer)

    return behaviours(into, pairs, runs, batch_size, kept=5 * ours.n_layers * ours.d_model)


@dataclass(frozen=True)
class _Patched:
    """Hooks that patch the other model's activations, at token positions from ``first`` on."""

    decoder: Decoder
    steps: Sequence[Step]
    context: Context
    here: Bool[Tensor, "batch pos 1"]
    first: int
    heads: Bool[Tensor, "layers heads"]
    mlps: Sequence[bool]

    def attention(self, layer: int, z: Tensor) -> Tensor:
        where = self._where(layer)[..., None] & self.heads[layer, :, None]
        return self.decoder.attention_out(layer, torch.where(where, self._theirs(layer, "z"), z))

    def mlp(self, layer: int, out: Tensor) -> Tensor:
        if not self.mlps[layer]:
            return out
        return torch.where(self._where(layer), self._theirs(layer, "mlp_out"), out)

    def _where(self, layer: int) -> Bool[Tensor, "batch queries 1"]:
        return self.decoder.to_queries(layer, self.here, self.context)

    def _theirs(self, layer: int, part: str) -> Tensor:
        return select_from(self.decoder, layer, getattr(self.steps[layer], part), self.first)


def _at(batch: PromptPairs, position: str) -> Bool[Tensor, "batch pos 1"]:
    pos = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    if position == EVERYWHERE:
        return torch.ones_like(batch.clean, dtype=torch.bool)[..., None]
    return (pos == token_positions(batch, position)[:, None])[..., None]


def _mlp_mask(n_layers: int, nodes: Collection[str]) -> Bool[Tensor, " layers"]:
    names = [f"m{layer}" for layer in range(n_layers)]
    unknown = sorted(set(nodes) - set(names))
    if unknown:
        raise CircuitlapseError(
            "the model has no such head or MLP",
            got=unknown[0],
            fix="Heads are named like a0.h1 and MLPs like m0, as in graph.nodes",
        )
    return torch.tensor([name in nodes for name in names])


@dataclass(frozen=True)
class Crosspatched:
    """Effect of patching one group's activations at one position.

    Attributes:
        group: Its name.
        position: A named position, or ``everywhere``.
        direction: ``tuned_into_base`` into the base, ``base_into_tuned`` into the tuned model.
        improvement: Part of G that the patch adds or removes, in logits, with its interval.
        share: The same over G; None where G's interval is not above zero.
        accuracy: The patched model's accuracy over the candidates (as in Prakash et al.).
        random: Improvements of size-matched random heads at the same position; None where there are
        none.
    """

    group: str
    position: str
    direction: Direction
    improvement: Estimate
    share: Estimate | None
    accuracy: float
    random: RandomBaseline | None


def crosspatch(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    groups: Mapping[str, Collection[str]],
    positions: Sequence[str],
    *,
    seed: int,
    n_random: int = RANDOM_GROUPS,
    repeats: int = 1000,
    advance: Callable[[int, int], None] | None = None,
) -> list[Crosspatched]:
    """Patch every group at every position, in both directions.

    Args:
        base: M0.
        tuned: M1.
        pairs: The new task's test prompts; groups must have been chosen on others.
        groups: Heads, MLPs or both by group name. Only groups of heads alone have random groups.
        positions: Named positions of the pairs, and ``everywhere``.
        seed: Fixes random groups and bootstrap.
        n_random: Random groups for each.
        repeats: Bootstrap resamples of the prompts.
        advance: Called with (patches done, all patches).

    Raises:
        CircuitlapseError: If the models differ in architecture, or there is no such node or
            position.
    """
    before, after = (
        behaviour(model, pairs).logit_diff.astype(np.float64) for model in (base, tuned)
    )
    sets: dict[str, list[tuple[str, ...]]] = {}
    for name, nodes in groups.items():
        heads_only = all(map(head_of, nodes))
        drawn = matched_heads(base.graph, nodes, n_random, seed) if heads_only else []
        sets[name] = [tuple(each) for each in (nodes, *drawn)]
    asked = [(name, position) for name in sets for position in positions]
    patches = [Patch(each, position) for name, position in asked for each in sets[name]]
    found: dict[tuple[str, str, Direction], list[Behaviour]] = {}
    for direction in get_args(Direction):
        # One call for all patches, so that each unpatched model runs only once.
        models = (base, tuned) if direction == "tuned_into_base" else (tuned, base)
        answers = iter(crosspatched(*models, pairs, patches))
        for name, position in asked:
            found[name, position, direction] = [next(answers) for _ in sets[name]]
        if advance is not None:
            advance(len(found), len(get_args(Direction)) * len(asked))
    keys = [
        (name, position, direction)
        for name in sets
        for direction in get_args(Direction)
        for position in positions
    ]
    parts, accuracies, random = [], [], []
    for key in keys:
        values = np.stack([each.logit_diff.astype(np.float64) for each in found[key]])
        improvements = values - before if key[2] == "tuned_into_base" else after - values
        parts.append(improvements[0])
        accuracies.append(float(found[key][0].candidate_correct.mean(dtype=np.float64)))
        random.append(
            compare_to_random(float(improvements[0].mean()), improvements[1:].mean(axis=1).tolist())
        )
    divided = divide(
        np.stack(parts, axis=1),
        after - before,
        seed=seed,
        repeats=repeats,
        rounding=logit_rounding(np.stack([before, after])),
    )
    return [
        Crosspatched(*key, divided.parts[i], divided.share(i), accuracies[i], random[i])
        for i, key in enumerate(keys)
    ]

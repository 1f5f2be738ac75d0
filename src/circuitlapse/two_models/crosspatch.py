"""Cross-model activation patching: one model's activations in the other's run of the same prompt.

CMAP (Prakash et al. 2024): nothing is corrupted. The same prompt runs through both models, and in
one of them some heads pass on the other model's mixed values, taken before W_O, at one position or
at all; the patched model's *own* W_O is used. An MLP passes on the other model's output. What is
put in comes from the other model's whole run, and everything behind the patch runs on freely.

Forward, the base gets the tuned model's activations: does what these heads compute suffice?
The improvement is v(patched base) - v(M0). Backward, the tuned model gets the base's: is it needed?
The improvement is v(M1) - v(patched tuned model). Both are parts of G = v(M1) - v(M0).
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
from circuitlapse.patching.partial_forward import cut, tail_context, trace_parts
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
    """What is taken from the other model.

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
    """Run one model with activations of the other put in, once for each patch.

    Args:
        into: The model that runs, and whose W_O and unembedding are used.
        source: The model that the activations are from.
        pairs: Prompts, of which the clean ones are run.
        patches: What to take, for each run.
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
        tails: dict[int, Context] = {}
        for heads, mlps, position, touched in masks:
            if not touched:
                yield final
                continue
            # Nothing changes before the first layer that is patched, nor left of the position; and
            # no read is left of it, as a position lies in its prompt, whose end is read.
            here, layer = _at(batch, position), touched[0]
            first = int(here.any(dim=(0, 2)).nonzero()[0])
            if first not in tails:
                tails[first] = tail_context(ours, own, context, first)
            patched = _Patched(ours, steps, tails[first], here[:, first:], first, heads, mlps)
            x = own[layer].resid_pre[:, first:]
            yield run_with_hooks(ours, x, tails[first], patched.attention, patched.mlp, layer)

    return behaviours(into, pairs, runs, batch_size, kept=5 * ours.n_layers * ours.d_model)


@dataclass(frozen=True)
class _Patched:
    """What the other model's activations make of each layer, on the columns from ``first`` on."""

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
        return cut(self.decoder, layer, getattr(self.steps[layer], part), self.first)


def _at(batch: PromptPairs, position: str) -> Bool[Tensor, "batch pos 1"]:
    columns = torch.arange(batch.clean.shape[1], device=batch.clean.device)
    if position == EVERYWHERE:
        return torch.ones_like(batch.clean, dtype=torch.bool)[..., None]
    return (columns == token_positions(batch, position)[:, None])[..., None]


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
    """What one group's activations bring, or take away, at one position.

    Attributes:
        group: Its name.
        position: A named position, or ``everywhere``.
        direction: ``tuned_into_base`` into the base, ``base_into_tuned`` into the tuned model.
        improvement: Part of G that the patch brings or takes away, in logits, with its interval.
        share: The same over G; None where G's interval is not above zero.
        accuracy: The patched model's accuracy among the names (Prakash et al. report this).
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
    """Patch every group at every position, both ways.

    Args:
        base: M0.
        tuned: M1.
        pairs: The new task's test prompts; groups must have been chosen on others.
        groups: Heads, MLPs or both by name of their group. Random groups are drawn for those that
            hold heads only.
        positions: Named positions of the pairs, and ``everywhere``.
        seed: Fixes random groups and bootstrap.
        n_random: Random groups for each.
        repeats: Bootstrap resamples of the prompts.
        advance: Called with (patches done, patches in all).

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
        # One call for all patches, so that either model runs as it is only once for them.
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

"""Patched runs of one batch: chosen outputs are taken from another run of it.

The run restarts at the first layer and position that change. The batch's own run and the other run
are computed once and shared by all patches; several patches run at once.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import GraphShape, head_name, head_of
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.patching.partial_forward import (
    context_from,
    select_from,
    trace_parts,
    variants_at_once,
)
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.shapes import Bool, Float
from circuitlapse.stats.apart_groups import head_mask
from circuitlapse.two_models.hooked_forward import run_with_hooks

EVERYWHERE = "everywhere"
"""Stands for all positions where a position is named."""


@dataclass(frozen=True)
class Patch:
    """Outputs to take from the other run.

    Attributes:
        nodes: Heads and MLPs, such as ``a0.h3`` and ``m1``.
        position: A named position of the pairs, perhaps with a shift such as ``S+1``.
        directions: Orthonormal directions by head, ``[d_model, some]``. Of such a head only the
            part of the difference in these directions is taken.
    """

    nodes: tuple[str, ...]
    position: str = EVERYWHERE
    directions: Mapping[str, Float[Tensor, "d_model some"]] = field(default_factory=dict)


def frozen_except(graph: GraphShape, free: Collection[str]) -> Patch:
    """Return the patch that takes the outputs of all heads but some.

    Raises:
        CircuitlapseError: If the model has no such head.
    """
    head_mask(graph, free)
    return Patch(tuple(head for head in graph.heads if head not in free))


@dataclass(frozen=True)
class Chosen:
    """A patch, with its nodes found in a model's graph."""

    patch: Patch
    heads: Bool[Tensor, "layers heads"]  # taken whole or in part
    whole: Bool[Tensor, "layers heads"]
    mlps: Bool[Tensor, " layers"]
    first: int  # layer that changes; the number of layers if none does

    @classmethod
    def of(cls, graph: GraphShape, patch: Patch) -> "Chosen":
        """Find a patch's nodes.

        Raises:
            CircuitlapseError: If the model has no such head or MLP.
        """
        unknown = [node for node in patch.nodes if node not in graph.nodes]
        if unknown:
            raise CircuitlapseError(
                "the model has no such head or MLP",
                got=unknown[0],
                fix="Heads are named like a0.h1 and MLPs like m0, as in graph.nodes",
            )
        names = [node for node in patch.nodes if head_of(node)]
        heads = torch.from_numpy(head_mask(graph, names))
        whole = [name for name in names if name not in patch.directions]
        mlps = torch.tensor([name in patch.nodes for name in graph.mlps])
        changed = (heads.any(dim=1) | mlps).nonzero().flatten().tolist()
        found = torch.from_numpy(head_mask(graph, whole))
        return cls(patch, heads, found, mlps, min(changed, default=graph.n_layers))


@dataclass(frozen=True)
class PatchedRuns:
    """Patched runs of one batch, after its own run and the other one."""

    decoder: Decoder
    source: Decoder  # of the other run
    own: Sequence[Step]
    final: Float[Tensor, "batch reads d_model"]
    other: Sequence[Step]
    other_final: Float[Tensor, "batch reads d_model"]
    context: Context
    pairs: PromptPairs

    @classmethod
    def of(
        cls,
        decoder: Decoder,
        source: Decoder,
        inputs: tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_model"]],
        context: Context,
        pairs: PromptPairs,
        chosen: Sequence[Chosen],
    ) -> "PatchedRuns":
        """Run the embedded prompts of the decoder and those of the source."""
        needs = ("z", "mlp_out") if any(bool(each.mlps.any()) for each in chosen) else ("z",)
        named = any(each.patch.position != EVERYWHERE for each in chosen)
        kept = ("resid_pre", "k", "v") if named else ("resid_pre",)
        other, other_final = trace_parts(source, inputs[1], context, needs)
        own, final = trace_parts(decoder, inputs[0], context, kept)
        return cls(decoder, source, own, final, other, other_final, context, pairs)

    def finals(
        self, chosen: Sequence[Chosen]
    ) -> Iterator[Float[Tensor, "some batch reads d_model"]]:
        """Run with each patch; yield the last residual streams, some at once, in order."""
        for (layer, position), group in groupby(chosen, lambda c: (c.first, c.patch.position)):
            same, here, first = list(group), *self._at(position)
            if layer == self.decoder.n_layers or not bool(here.any()):
                yield self.final.expand(len(same), *self.final.shape)
                continue
            context = context_from(self.decoder, self.own, self.context, first)
            x = self.own[layer].resid_pre[:, first:]
            at_once = variants_at_once(self.decoder, context, x)
            for start in range(0, len(same), at_once):
                few = same[start : start + at_once]
                hooks = _Hooks(self, few, context, here[:, first:], first)
                rows = x.repeat(len(few), 1, 1)
                final = run_with_hooks(
                    self.decoder, rows, context, hooks.attention, hooks.mlp, layer
                )
                yield final.unflatten(0, (len(few), -1))

    def _at(self, position: str) -> tuple[Bool[Tensor, "batch pos 1"], int]:
        """Where in the batch a named position is, and the first of these places."""
        tokens = self.own[0].resid_pre.shape[:2]
        pos = torch.arange(tokens[1], device=self.context.reads.device)
        if position == EVERYWHERE:
            return torch.ones(*tokens, 1, dtype=torch.bool, device=pos.device), 0
        where = token_positions(self.pairs, position)
        if self.context.start is not None:
            where = where - self.context.start
        return (pos == where[:, None])[..., None], max(0, int(where.min()))


@dataclass(frozen=True)
class _Hooks:
    """Hooks of some patches that run at once, from one layer and position on."""

    runs: PatchedRuns
    few: Sequence[Chosen]
    context: Context
    here: Bool[Tensor, "batch pos 1"]
    first: int

    def attention(self, layer: int, z: Tensor) -> Tensor:
        """Return the attention output, given the mixed values of all patches, one after another."""
        decoder, source = self.runs.decoder, self.runs.source
        if not any(bool(each.heads[layer].any()) for each in self.few):
            return decoder.attention_out(layer, z)
        ours, theirs = z.unflatten(0, (len(self.few), -1)), self._theirs(layer, "z")
        whole = self._each(lambda each: each.whole[layer])[:, None, None, :, None]
        where = whole & self._where(layer)[..., None]
        if source is decoder:
            out = decoder.attention_out(layer, torch.where(where, theirs, ours).flatten(0, 1))
        else:
            taken = (theirs * where).flatten(0, 1).flatten(2)
            out = decoder.attention_out(layer, (ours * ~where).flatten(0, 1))
            out = out + taken @ source.attention[layer].W_O.flatten(0, 1)
        if any(bool((each.heads & ~each.whole)[layer].any()) for each in self.few):
            out = out + self._part(layer, ours, theirs)
        return out

    def mlp(self, layer: int, out: Tensor) -> Tensor:
        """Return the MLP output to use."""
        if not any(bool(each.mlps[layer]) for each in self.few):
            return out
        taken = self._each(lambda each: each.mlps[layer])[:, None, None, None]
        ours = out.unflatten(0, (len(self.few), -1))
        theirs = self._theirs(layer, "mlp_out")
        return torch.where(taken & self._where(layer), theirs, ours).flatten(0, 1)

    def _part(
        self,
        layer: int,
        ours: Float[Tensor, "some batch queries heads d_head"],
        theirs: Float[Tensor, "batch queries heads d_head"],
    ) -> Float[Tensor, "some_batch queries d_model"]:
        """The part of the outputs' difference that lies in the patches' directions."""
        space = self._directions(layer).to(ours)
        W, W_theirs = (each.attention[layer].W_O for each in (self.runs.decoder, self.runs.source))
        gap = torch.einsum("bqhd,ghdr->gbqhr", theirs, W_theirs @ space)
        gap = gap - torch.einsum("gbqhd,ghdr->gbqhr", ours, W @ space)
        change = torch.einsum("gbqhr,ghmr->gbqm", gap, space)
        return (change * self._where(layer)).flatten(0, 1)

    def _directions(self, layer: int) -> Float[Tensor, "some heads d_model most"]:
        """Directions of every patch and head of a layer, filled up with zeros."""
        most = max(part.shape[1] for each in self.few for part in each.patch.directions.values())
        decoder = self.runs.decoder
        space = torch.zeros(len(self.few), decoder.n_heads, decoder.d_model, most)
        for patch, each in zip(space, self.few, strict=True):
            for head in each.heads[layer].nonzero().flatten().tolist():
                part = each.patch.directions.get(head_name(layer, head))
                if part is not None:
                    patch[head, :, : part.shape[1]] = part
        return space

    def _each(self, of: Callable[[Chosen], Tensor]) -> Tensor:
        return torch.stack([of(each) for each in self.few]).to(self.here.device)

    def _where(self, layer: int) -> Bool[Tensor, "batch queries 1"]:
        return self.runs.decoder.to_queries(layer, self.here, self.context)

    def _theirs(self, layer: int, part: str) -> Tensor:
        values = getattr(self.runs.other[layer], part)
        return select_from(self.runs.decoder, layer, values, self.first)

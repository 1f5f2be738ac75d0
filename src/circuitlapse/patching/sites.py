"""Activation types for patching: the change that a patch makes in its own layer.

A patch in an attention changes the mixed values by Δz, which goes through W_O. A head's output,
query or pattern at one position changes that position alone; a key or value changes every position
from its own on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.graph import Site
from circuitlapse.patching.directions import Runs
from circuitlapse.patching.partial_forward import (
    PartialForward,
    changes_anything,
    partial_forwards,
    replace_at,
    select_at,
    stream_after_attention,
)
from circuitlapse.shapes import Float, Int

NEEDS: dict[Site, tuple[str, ...]] = {
    "resid_pre": ("resid_pre",),
    "attn_out": ("attn_out",),
    "mlp_out": ("mlp_out",),
    "head_out": ("z",),
    "head_q": ("q",),
    "head_k": ("k",),
    "head_v": ("v",),
    "head_pattern": ("q", "k"),
}
"""The activations of the source run that each site takes."""


@dataclass(frozen=True)
class SitePatches:
    """Patches of one type of activation in the runs of one batch.

    ``layer`` is the layer of the activation. Slots are heads, or key-value heads for keys and
    values; the other sites have one.
    """

    runs: Runs
    site: Site

    def at_all_positions(self) -> Float[Tensor, "layers slots batch"]:
        """Return the metric with each head's activation patched at all positions."""
        whole, after = self.runs.forward(), []
        for layer in range(len(self.runs.base)):
            change = self.head_changes(layer)
            metric = whole.after_attention(layer, change)
            after.append(metric.where(changes_anything(change), self.runs.unpatched))
        return torch.stack(after)

    def fill_by_position(
        self, after: Float[Tensor, "layers slots some batch"], pos: Int[Tensor, "some batch"]
    ) -> None:
        """Fill in the metric with each activation patched at one position, if it can matter."""
        decoder, batch, base = self.runs.decoder, self.runs.batch, self.runs.base
        shared, last = self.site in ("head_k", "head_v"), len(base) - 1
        for which, forward in partial_forwards(decoder, batch, base, pos):
            for layer in range(len(base)):
                if shared:
                    change = self._shared_changes(layer, forward, pos[which])
                    metric = forward.after_attention(layer, change.flatten(0, 1))
                    after[layer, :, which] = metric.unflatten(0, change.shape[:2])
                elif layer < last or self.site == "resid_pre":
                    reader, values = self._single_values(layer, pos[which])
                    after[layer, :, which] = forward.after_input(reader, pos[which], values)
        if shared or self.site == "resid_pre":
            return
        # The last layer's output matters only where logits are needed, at each such position alone.
        (_, values), reads = self._single_values(last), batch.context.reads
        for read in reads.unbind(dim=1):
            here = (reads == read[:, None])[..., None]
            final = torch.where(here, values, base[last].resid_post)
            metric = self.runs.forward().metric(final)
            after[last] = torch.where(pos == read, metric[:, None], after[last])

    def head_changes(self, layer: int) -> Float[Tensor, "slots batch queries d_model"]:
        """Change of a layer's output when one head at a time is patched at all positions."""
        decoder, context = self.runs.decoder, self.runs.batch.context
        ours, theirs = self.runs.base[layer], self.runs.source[layer]
        if self.site == "head_out":
            change = theirs.z - ours.z
        elif self.site == "head_pattern":
            patterns = [
                decoder.pattern(layer, decoder.to_queries(layer, step.q, context), step.k, context)
                for step in (theirs, ours)
            ]
            change = decoder.mix(layer, patterns[0] - patterns[1], ours.v, context)
        else:
            q, k, v = (
                getattr(theirs if self.site == f"head_{slot}" else ours, slot) for slot in "qkv"
            )
            q = decoder.to_queries(layer, q, context)
            change = decoder.attend(layer, q, k, v, context) - ours.z
        return self._through_out(layer, change)

    def _shared_changes(
        self, layer: int, forward: PartialForward, pos: Int[Tensor, "some batch"]
    ) -> Float[Tensor, "kv_heads some batch queries d_model"]:
        """Change of a layer's output when one key or value is patched at one position."""
        decoder, context = forward.decoder, forward.context
        ours, theirs = self.runs.base[layer], self.runs.source[layer]
        n, where = len(pos), pos - forward.first
        q, k, v = (getattr(ours, slot)[:, forward.first :] for slot in "qkv")
        if self.site == "head_k":
            k = replace_at(k, where, select_at(theirs.k, pos)).flatten(0, 1)
            v = v.repeat(n, 1, 1, 1)
        else:
            k = k.repeat(n, 1, 1, 1)
            v = replace_at(v, where, select_at(theirs.v, pos)).flatten(0, 1)
        q = decoder.to_queries(layer, q, context).repeat(n, 1, 1, 1)
        z = decoder.attend(layer, q, k, v, context).unflatten(0, (n, -1))
        change = (z - forward.select(layer, ours.z)).flatten(0, 1)
        return self._through_out(layer, change).unflatten(1, (n, -1))

    def _single_values(
        self, layer: int, pos: Int[Tensor, "some batch"] | None = None
    ) -> tuple[int, Float[Tensor, "slots batch some d_model"]]:
        """Return the layer whose input stream is patched, and its values at each position alone.

        ``pos`` selects positions, by default all; the last layer's outputs have only positions that
        need logits.
        """
        ours, theirs = self.runs.base[layer], self.runs.source[layer]

        def some(x: Tensor) -> Tensor:
            if pos is None:
                return x
            rows = torch.arange(x.shape[-3], device=x.device)[:, None]
            return x[..., rows, pos.T, :]

        if self.site == "resid_pre":
            return layer, some(theirs.resid_pre)[None]
        post = some(ours.resid_post)
        if self.site == "mlp_out":
            return layer + 1, (post + some(theirs.mlp_out - ours.mlp_out))[None]
        if self.site == "attn_out":
            change = (theirs.attn_out - ours.attn_out)[None]
        else:
            change = self.head_changes(layer)
        mid, change = some(ours.resid_mid), some(change)
        return layer + 1, stream_after_attention(self.runs.decoder, layer, mid, post, change)

    def _through_out(
        self, layer: int, change: Float[Tensor, "batch queries heads d_head"]
    ) -> Float[Tensor, "slots batch queries d_model"]:
        """Map changes of the heads' mixed values through W_O."""
        block = self.runs.decoder.attention[layer]
        slots = block.n_kv_heads if self.site in ("head_k", "head_v") else len(block.W_O)
        by_slot = change.flatten(0, 1).unflatten(1, (slots, -1)).flatten(2).transpose(0, 1)
        out = torch.bmm(by_slot, block.W_O.reshape(slots, -1, block.W_O.shape[-1]))
        return out.unflatten(1, change.shape[:2])

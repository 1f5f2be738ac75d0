"""Activation types for patching: the change that a patch makes in its own layer.

A patch in an attention changes the mixed values by Δz, which goes through W_O. A head's output,
query or pattern at one position changes that position alone; a key or value changes every position
from its own on.
"""

import torch
from torch import Tensor

from circuitlapse.graph import Site
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.patching.partial_forward import Tail, behind_attention, put, take
from circuitlapse.shapes import Float, Int

SHARED: tuple[Site, ...] = ("head_k", "head_v")
"""What belongs to key-value heads, and reaches all later positions."""

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
"""What must be kept of the run that activations are taken from."""


def n_slots(graph: Graph, site: Site) -> int:
    """Number of activations of this type in a layer: heads, or key-value heads."""
    return graph.n_kv_heads if site in SHARED else graph.n_heads


def head_changes(
    decoder: Decoder, site: Site, layer: int, ours: Step, theirs: Step, context: Context
) -> Float[Tensor, "slots batch queries d_model"]:
    """Change of a layer's output when one head at a time takes ``theirs`` at all positions."""
    if site == "head_out":
        change = theirs.z - ours.z
    elif site == "head_pattern":
        patterns = [
            decoder.pattern(layer, decoder.to_queries(layer, step.q, context), step.k, context)
            for step in (theirs, ours)
        ]
        change = decoder.mix(layer, patterns[0] - patterns[1], ours.v, context)
    else:
        q, k, v = (
            getattr(theirs if site == f"head_{slot}" else ours, slot) for slot in ("q", "k", "v")
        )
        q = decoder.to_queries(layer, q, context)
        change = decoder.attend(layer, q, k, v, context) - ours.z
    slots = ours.k.shape[2] if site in SHARED else ours.z.shape[2]
    return through_out(decoder, layer, change, slots)


def shared_changes(
    site: Site, layer: int, theirs: Step, tail: Tail, columns: Int[Tensor, "some batch"]
) -> Float[Tensor, "kv_heads some batch queries d_model"]:
    """Change of a layer's output in a tail when one key or value of one position is ``theirs``."""
    decoder, context, ours = tail.decoder, tail.context, tail.base[layer]
    n, where = len(columns), columns - tail.first
    q, k, v = (getattr(ours, slot)[:, tail.first :] for slot in ("q", "k", "v"))
    if site == "head_k":
        k = put(k, where, take(theirs.k, columns)).flatten(0, 1)
        v = v.repeat(n, 1, 1, 1)
    else:
        k = k.repeat(n, 1, 1, 1)
        v = put(v, where, take(theirs.v, columns)).flatten(0, 1)
    q = decoder.to_queries(layer, q, context).repeat(n, 1, 1, 1)
    z = decoder.attend(layer, q, k, v, context).unflatten(0, (n, -1))
    change = (z - tail.cut(layer, ours.z)).flatten(0, 1)
    return through_out(decoder, layer, change, k.shape[2]).unflatten(1, (n, -1))


def single_values(
    decoder: Decoder,
    site: Site,
    layer: int,
    ours: Step,
    theirs: Step,
    context: Context,
    columns: Int[Tensor, "some batch"] | None = None,
) -> tuple[int, Float[Tensor, "slots batch some d_model"]]:
    """The stream at a position where one activation of a layer, no key or value, is ``theirs``.

    Returns the layer that reads the stream, and its values with each position patched alone.
    ``columns`` selects positions, by default all; the last layer's outputs have only positions that
    need logits.
    """

    def some(x: Tensor) -> Tensor:
        if columns is None:
            return x
        rows = torch.arange(x.shape[-3], device=x.device)[:, None]
        return x[..., rows, columns.T, :]

    if site == "resid_pre":
        return layer, some(theirs.resid_pre)[None]
    post = some(ours.resid_post)
    if site == "mlp_out":
        return layer + 1, (post + some(theirs.mlp_out - ours.mlp_out))[None]
    if site == "attn_out":
        change = (theirs.attn_out - ours.attn_out)[None]
    else:
        change = head_changes(decoder, site, layer, ours, theirs, context)
    return layer + 1, behind_attention(decoder, layer, some(ours.resid_mid), post, some(change))


def through_out(
    decoder: Decoder, layer: int, change: Float[Tensor, "batch queries heads d_head"], slots: int
) -> Float[Tensor, "slots batch queries d_model"]:
    """Map changes of the heads' mixed values through W_O."""
    weight = decoder.attention[layer].W_O
    by_slot = change.flatten(0, 1).unflatten(1, (slots, -1)).flatten(2).transpose(0, 1)
    out = torch.bmm(by_slot, weight.reshape(slots, -1, weight.shape[-1]))
    return out.unflatten(1, change.shape[:2])

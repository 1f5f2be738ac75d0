"""The correction of attribution patching for saturated attention: AtP*'s QK-fix.

Where attention is saturated, the gradient through the softmax is almost zero, although another
query or key would move it. AtP* (Kramár et al. 2024, section 3.1.1) therefore computes the changed
attention weights by the softmax itself, and only their effect by a gradient: the effect of a query
node is Σ (A corrupt − A clean) · ∂L/∂A, where A corrupt has that query and all else clean.

It defines this for nodes. For an edge u → query of a head, the query that belongs to the edge is
used: projected, through its normalisation, from the clean residual stream in which u has its
corrupt output, and nothing of it is linearised. Likewise for an edge into a key, at all positions
at once as in exact patching of an edge (AtP* takes keys one position at a time). With G the
gradient at the mixed values z = A v, the sum above is Σ (z′ − z) · G, since v is clean in both: no
attention weight is kept.
"""

import torch
from torch import Tensor

from circuitlapse.attribution.parts import Parts
from circuitlapse.attribution.tails import variants_at_once
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.layers import single
from circuitlapse.models.prefix import Suffixes
from circuitlapse.shapes import Float

_PART_FLOATS = 2**19


def query_and_key_scores(
    decoder: Decoder,
    batch: Suffixes,
    layer: int,
    clean: Step,
    gradient: Float[Tensor, "batch queries heads d_head"],
    sources: Float[Tensor, "some batch pos d_model"],
    parts: Parts,
) -> Float[Tensor, "parts some slots"]:
    """Score the edges into one layer's queries and keys, in the readers' order.

    It costs one projection of the whole layer and two of its attentions per writer before it.

    Args:
        decoder: The model.
        batch: The batch.
        layer: Whose queries and keys.
        clean: What the layer computed in the clean run.
        gradient: Of −metric at z, there.
        sources: What corruption adds to the outputs of the writers before the layer.
        parts: What to sum over. A query acts at its own position only. Keys compete for attention,
            so that those of each part are corrupted alone.
    """
    last, found = decoder.is_last(layer), []
    part = variants_at_once(decoder, batch.context, sources[0], _PART_FLOATS)
    for some in sources.split(part):
        n = len(some)
        streams = (clean.resid_pre + some).flatten(0, 1)
        new_q, new_k, _ = decoder.attention[layer].project(streams)
        q, k, v = (x.repeat(n, 1, 1, 1) for x in (clean.q, clean.k, clean.v))
        # Rounding must not give a score to what changes nothing.
        changes = some.flatten(2).any(dim=-1)[:, :, None, None]
        by_query = _effects(decoder, batch, layer, clean, gradient, (new_q, k, v)).where(changes, 0)
        by_head = [
            _effects(decoder, batch, layer, clean, gradient, (q, keys, v)).where(changes, 0)
            for keys in (new_k, *_each_alone(parts, k, new_k))
        ]
        at_once, *alone = by_head
        by_key = _sums([*parts.of(at_once, last)[:2], *alone])
        by_key = by_key.unflatten(2, (k.shape[2], -1)).sum(dim=-1)
        by_query = parts.with_rest(_sums(parts.of(by_query, last)))
        found.append(torch.cat([by_query, by_key], dim=-1))
    return torch.cat(found, dim=1)


def _each_alone(
    parts: Parts,
    old: Float[Tensor, "variants pos kv_heads d_head"],
    new: Float[Tensor, "variants pos kv_heads d_head"],
) -> list[Float[Tensor, "variants pos kv_heads d_head"]]:
    """Keys that are new at the columns of one part only."""
    return [
        torch.where(columns.repeat(len(new) // len(columns), 1)[:, :, None, None], new, old)
        for columns, _ in parts.alone()
    ]


def _effects(
    decoder: Decoder,
    batch: Suffixes,
    layer: int,
    clean: Step,
    gradient: Float[Tensor, "batch queries heads d_head"],
    qkv: tuple[Tensor, Tensor, Tensor],
) -> Float[Tensor, "some batch queries heads"]:
    """First-order effect, through the mixed values, of new attention weights."""
    q, k, v = qkv
    q = decoder.to_queries(layer, q, batch.context)
    z = decoder.attend(layer, q, k, v, batch.context).unflatten(0, (-1, len(clean.z)))
    return (single(z - clean.z) * gradient).sum(dim=-1)


def _sums(parts: list[Float[Tensor, "some ..."]]) -> Float[Tensor, "parts some heads"]:
    """Sum each part's effects over all its rows and positions."""
    return torch.stack([part.flatten(1, -2).double().cpu().sum(dim=1) for part in parts])

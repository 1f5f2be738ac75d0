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
from circuitlapse.models.decoder import Decoder, Step
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
        parts: Halves of the prompts only: keys act on later positions than their own.
    """
    effects = []
    for some in sources.split(max(1, _PART_FLOATS // sources[0].numel())):
        n = len(some)
        streams = (clean.resid_pre + some).flatten(0, 1)
        q, k, _ = decoder.attention[layer].project(streams)
        as_is = [x.repeat(n, 1, 1, 1) for x in (clean.q, clean.k, clean.v)]
        by_query = _effect(decoder, batch, layer, clean, gradient, (q, as_is[1], as_is[2]))
        by_head = _effect(decoder, batch, layer, clean, gradient, (as_is[0], k, as_is[2]))
        by_key = by_head.unflatten(2, (k.shape[2], -1)).sum(dim=-1)
        # Rounding must not give a score to what changes nothing.
        changes = some.flatten(2).any(dim=-1, keepdim=True)
        effects.append(torch.cat([by_query, by_key], dim=-1).where(changes, 0.0))
    each = torch.cat(effects).double().cpu()
    return torch.stack([each[:, half].sum(dim=1) for half in parts.halves])


def _effect(
    decoder: Decoder,
    batch: Suffixes,
    layer: int,
    clean: Step,
    gradient: Float[Tensor, "batch queries heads d_head"],
    qkv: tuple[Tensor, Tensor, Tensor],
) -> Float[Tensor, "some batch heads"]:
    q, k, v = qkv
    q = decoder.to_queries(layer, q, batch.context)
    z = decoder.attend(layer, q, k, v, batch.context).unflatten(0, (-1, len(clean.z)))
    return ((z - clean.z) * gradient).sum(dim=(2, 4))

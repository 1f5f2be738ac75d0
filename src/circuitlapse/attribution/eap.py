"""Edge attribution patching by gradients: ``eap`` and ``eap-ig-inputs``, and AtP*'s QK-fix.

score(u → v) = mean over prompts of Σ over positions of (a_u corrupt − a_u clean) · ∂L/∂in_v, with L
= −metric. EAP (Syed et al. 2023) takes the gradient at the clean run; EAP-IG-inputs (Hanna et al.
2024) takes its mean over m runs whose input embeddings are e_corrupt + (k/m)(e_clean − e_corrupt),
k = 0 … m − 1, without the clean end.

In saturated attention the gradient through the softmax is almost zero. AtP* (Kramár et al. 2024,
section 3.1.1) therefore recomputes the attention weights with the softmax, and takes a gradient
only after them: the effect of a query node is Σ (A corrupt − A clean) · ∂L/∂A, where A corrupt has
that query and all else clean.

AtP* defines this for nodes. For an edge u → query of a head, the query is projected, through its
normalisation, from the clean residual stream in which u has its corrupt output. An edge into a key
is the same, at all positions at once (AtP* takes keys one position at a time). With G the gradient
at the mixed values z = A v, the sum is Σ (z′ − z) · G, since v is clean in both.
"""

from typing import Literal

import torch
from torch import Tensor

from circuitlapse.attribution.edge_parts import Parts
from circuitlapse.attribution.gradients import Gradients, differences
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.layers import single
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.patching.partial_forward import variants_at_once
from circuitlapse.prompts.metrics import Metric
from circuitlapse.shapes import Float


def check_gradient_at_clean(metric: Metric) -> None:
    """Check that a metric has a gradient at the clean run, where EAP needs it.

    Raises:
        CircuitlapseError: For ``neg_kl``, whose scores would be rounding errors.
    """
    if metric == "neg_kl":
        raise CircuitlapseError(
            "eap cannot score neg_kl: neg_kl is largest in the clean run, so its gradient is zero",
            fix="Use eap-ig-inputs, or another metric",
        )


def eap_scores(
    decoder: Decoder, graph: Graph, batch: Suffixes, parts: Parts, qk_fix: bool
) -> Float[Tensor, "parts writers readers"]:
    """Sum one batch's EAP scores, with AtP*'s QK-fix if asked."""
    gradients = Gradients(decoder, batch)
    clean, at_z = gradients.run(batch.clean.detach().requires_grad_(), with_z=qk_fix)
    with torch.no_grad():
        corrupt = decoder.trace(batch.corrupt, batch.context)
        inner, end = differences(decoder, graph, batch, clean, corrupt)
        sums = gradients.scores(graph, inner, end, parts)
        if qk_fix:
            for layer, (step, gradient) in enumerate(zip(clean, at_z, strict=True)):
                sources = inner[: graph.n_before_attention(layer)]
                fixed = query_and_key_scores(decoder, batch, layer, step, gradient, sources, parts)
                start = graph.slot_readers(layer, "q").start
                sums[:, : len(sources), start : start + fixed.shape[-1]] = fixed
    return sums


def eap_ig_scores(
    decoder: Decoder, graph: Graph, batch: Suffixes, parts: Parts, steps: int
) -> Float[Tensor, "parts writers readers"]:
    """Sum one batch's EAP-IG-inputs scores."""
    gradients = Gradients(decoder, batch)
    inputs = [x.detach().requires_grad_() for x in embeddings(batch, "eap-ig-inputs", steps)]
    corrupt, _ = gradients.run(inputs[0])
    for x in inputs[1:]:
        gradients.run(x)
    with torch.no_grad():
        clean = decoder.trace(batch.clean, batch.context)
        inner, end = differences(decoder, graph, batch, clean, corrupt)
        return gradients.scores(graph, inner, end, parts) / steps


def embeddings(
    batch: Suffixes, method: Literal["eap", "eap-ig-inputs"], steps: int
) -> list[Float[Tensor, "batch pos d_model"]]:
    """Embeddings at which a method takes gradients; the first is an end of the path."""
    if method == "eap":
        return [batch.clean]
    change = batch.clean - batch.corrupt
    return [batch.corrupt, *(batch.corrupt + change * (k / steps) for k in range(1, steps))]


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
    """Score the edges into one layer's queries and keys, in the destinations' order.

    ``sources`` are the output differences of the sources before the layer, and ``gradient`` is that
    of −metric at z. Keys compete for attention, so those of each part are corrupted alone. The cost
    is one projection and two attentions of the layer per source.
    """
    last, found, context = decoder.is_last(layer), [], batch.context

    def effects(q: Tensor, k: Tensor, v: Tensor, changed: Tensor) -> Tensor:
        """First-order effect, through the mixed values, of new attention weights."""
        q = decoder.to_queries(layer, q, context)
        z = decoder.attend(layer, q, k, v, context).unflatten(0, (-1, len(clean.z)))
        return (single(z - clean.z) * gradient).sum(dim=-1).where(changed, 0)

    for some in sources.split(variants_at_once(decoder, context, sources[0], _PART_FLOATS)):
        n = len(some)
        streams = (clean.resid_pre + some).flatten(0, 1)
        new_q, new_k, _ = decoder.attention[layer].project(streams)
        q, k, v = (x.repeat(n, 1, 1, 1) for x in (clean.q, clean.k, clean.v))
        # A source that does not change scores zero, without rounding errors.
        changed = some.flatten(2).any(dim=-1)[:, :, None, None]
        by_query = effects(new_q, k, v, changed)
        alone = [
            effects(q, torch.where(pos.repeat(n, 1)[:, :, None, None], new_k, k), v, changed)
            for pos, _ in parts.alone()
        ]
        by_key = _sums([*parts.of(effects(q, new_k, v, changed), last)[:2], *alone])
        by_key = by_key.unflatten(2, (k.shape[2], -1)).sum(dim=-1)
        by_query = parts.with_rest(_sums(parts.of(by_query, last)))
        found.append(torch.cat([by_query, by_key], dim=-1))
    return torch.cat(found, dim=1)


def _sums(parts: list[Float[Tensor, "some ..."]]) -> Float[Tensor, "parts some heads"]:
    """Sum each part's effects over its rows and positions."""
    return torch.stack([part.flatten(1, -2).double().cpu().sum(dim=1) for part in parts])

"""Edge attribution patching by gradients: ``eap`` and ``eap-ig-inputs``.

score(u → v) = mean over prompts of Σ over positions of (a_u corrupt − a_u clean) · ∂L/∂in_v, with
L = −metric. EAP (Syed et al. 2023) takes the gradient at the clean run; EAP-IG-inputs (Hanna et al.
2024) takes its mean over m runs whose input embeddings are e_corrupt + (k/m)(e_clean − e_corrupt),
k = 0 … m − 1: the corrupted end is in, the clean end is not.
"""

from typing import Literal

import torch
from torch import Tensor

from circuitlapse.attribution.gradients import Gradients, differences
from circuitlapse.attribution.parts import Parts
from circuitlapse.attribution.qk_fix import query_and_key_scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.graph import Graph
from circuitlapse.models.prefix import Suffixes
from circuitlapse.shapes import Float
from circuitlapse.tasks.metrics import Metric


def check_gradient_at_clean(metric: Metric) -> None:
    """Refuse what has no slope at the clean run, where EAP takes its gradient.

    Raises:
        CircuitlapseError: For ``neg_kl``, whose scores would be rounding errors.
    """
    if metric == "neg_kl":
        raise CircuitlapseError(
            "neg_kl is largest in the clean run itself, so that its gradient there is zero",
            got="eap",
            fix="Use eap-ig-inputs, whose gradients are taken on the way from the corrupt prompt",
        )


def eap_scores(
    decoder: Decoder, graph: Graph, batch: Suffixes, parts: Parts, qk_fix: bool
) -> Float[Tensor, "parts writers readers"]:
    """Sum one batch's EAP scores; see :mod:`circuitlapse.attribution.qk_fix` for the option."""
    gradients = Gradients(decoder)
    clean, at_z = _run(gradients, batch, batch.clean, with_z=qk_fix)
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
    gradients = Gradients(decoder)
    corrupted, *others = embeddings(batch, "eap-ig-inputs", steps)
    corrupt, _ = _run(gradients, batch, corrupted)
    for x in others:
        _run(gradients, batch, x)
    with torch.no_grad():
        clean = decoder.trace(batch.clean, batch.context)
        inner, end = differences(decoder, graph, batch, clean, corrupt)
        return gradients.scores(graph, inner, end, parts) / steps


def embeddings(
    batch: Suffixes, method: Literal["eap", "eap-ig-inputs"], steps: int
) -> list[Float[Tensor, "batch pos d_model"]]:
    """Where the gradients of a method are taken; the first is an end of the way itself."""
    if method == "eap":
        return [batch.clean]
    way = batch.clean - batch.corrupt
    return [batch.corrupt, *(batch.corrupt + way * (k / steps) for k in range(1, steps))]


def _run(
    gradients: Gradients,
    batch: Suffixes,
    x: Float[Tensor, "batch pos d_model"],
    with_z: bool = False,
) -> tuple[list[Step], list[Tensor]]:
    """Run forward and backward from embeddings ``x``; return the steps and the gradients at z."""
    with torch.enable_grad():
        steps = gradients.decoder.trace(x.detach().requires_grad_(), batch.context)
    others = [step.z for step in steps] if with_z else []
    return steps, gradients.add(batch, steps, steps[-1].resid_post, others)

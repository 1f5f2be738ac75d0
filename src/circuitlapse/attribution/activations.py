"""Edge attribution that interpolates one node's activations at a time: ``eap-ig-activations``.

It is published in the code of EAP-IG (Hanna et al. 2024) and evaluated in MIB (Mueller et al.
2025). In turn the output of the embeddings, of each layer's attention (all heads together) and of
each layer's MLP is replaced by α clean + (1 − α) corrupt, α = k/m, k = 1 … m, in a run on the clean
prompt. A score is (a_u corrupt − a_u clean) · ∂L/∂in_v, summed over positions, with the mean of the
gradients of all (1 + 2 layers) m runs. The replaced output is a constant: no gradient flows through
it.

Before the node each run equals the clean run, so it starts at the node. Gradients before it follow
from the clean run's Jacobian, which is linear, so one backward pass serves all runs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from circuitlapse.attribution.edge_parts import Parts
from circuitlapse.attribution.gradients import Gradients, differences
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.shapes import Float


def eap_ig_activations_scores(
    decoder: Decoder, graph: Graph, batch: Suffixes, parts: Parts, steps: int
) -> Float[Tensor, "parts writers readers"]:
    """Sum one batch's scores."""
    clean, corrupt = both_runs(decoder, batch)
    with torch.no_grad():
        inner, end = differences(decoder, graph, batch, clean, corrupt)
    found = each_node(decoder, batch, clean, corrupt, steps)
    sums = next(found).scores(graph, inner, end, parts)
    for gradients in found:
        sums += gradients.scores(graph, inner, end, parts)
        del gradients  # frees memory for the next ones
    return sums / n_runs(decoder, steps)


def both_runs(decoder: Decoder, batch: Suffixes) -> tuple[list[Step], list[Step]]:
    """Run the clean prompts with gradients, and the corrupt ones without."""
    with torch.enable_grad():
        clean = decoder.trace(_leaf(batch.clean), batch.context)
    with torch.no_grad():
        return clean, decoder.trace(batch.corrupt, batch.context)


def n_runs(decoder: Decoder, steps: int) -> int:
    """Number of backward passes."""
    return steps * (1 + 2 * decoder.n_layers)


def each_node(
    decoder: Decoder, batch: Suffixes, clean: list[Step], corrupt: list[Step], steps: int
) -> Iterator[Gradients]:
    """Replace the output of one node after the other, and differentiate the metric.

    Yields gradients at the destinations; their sum is that of all runs.
    """
    shares = [1 - k / steps for k in range(1, steps + 1)]
    gradients = Gradients(decoder, batch)
    for share in shares:
        gradients.run(_leaf(batch.clean + share * (batch.corrupt - batch.clean)))
    yield gradients
    below: list[tuple[Tensor, Tensor]] = []
    for layer, (ours, theirs) in enumerate(zip(clean, corrupt, strict=True)):
        for name in ("attn_out", "mlp_out"):
            gradients, arriving = Gradients(decoder, batch), torch.zeros_like(ours.resid_post)
            for share in shares:
                change = share * (getattr(theirs, name) - getattr(ours, name)).detach()
                if name == "attn_out" and not decoder.parallel:
                    arriving += _run_from_mlp(gradients, layer, ours.resid_mid + change)
                else:
                    x = _leaf(ours.resid_post + change)
                    arriving += gradients.run(x, layer + 1, [x])[1][0]
            yield gradients
            below += _bypassing(decoder, batch, ours, name, arriving, layer)
    gradients = Gradients(decoder, batch)
    wanted = [x for step in clean for x in (step.q, step.k, step.v, step.resid_mid)]
    found = torch.autograd.grad(
        [x for x, _ in below], wanted, [gradient for _, gradient in below], materialize_grads=True
    )
    gradients.collect(clean, found)
    yield gradients


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _run_from_mlp(
    gradients: Gradients, layer: int, x: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, "batch pos d_model"]:
    """Run from after the attention of ``layer`` and return the gradient at the stream there."""
    with torch.enable_grad():
        x = _leaf(x)
        into_mlp = x.view_as(x)
        post = x + gradients.decoder.mlp[layer](into_mlp)
    arriving, at_mlp = gradients.run(post, layer + 1, [x, into_mlp])[1]
    gradients.add_mlp(layer, at_mlp)
    return arriving


def _bypassing(
    decoder: Decoder,
    batch: Suffixes,
    clean: Step,
    replaced: str,
    arriving: Float[Tensor, "batch pos d_model"],
    layer: int,
) -> list[tuple[Tensor, Tensor]]:
    """Propagate a gradient from after a replaced node through the rest of its layer."""
    with torch.enable_grad():
        paths = [(decoder.to_queries(layer, clean.resid_pre, batch.context), arriving)]
    if replaced == "mlp_out":
        paths.append((clean.attn_out, arriving))
    elif decoder.parallel:
        paths.append((clean.mlp_out, arriving))
    return paths

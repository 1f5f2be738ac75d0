"""Scores of the MLPs' hidden neurons, by the gradient methods.

A neuron writes its activation times its row of the MLP's output weights, so that its score is a
node's: Σ over positions of (h corrupt − h clean) · ∂L/∂h, with L = −metric and the gradient of the
method (see :mod:`circuitlapse.attribution.eap`). The MLP's output is the sum of what its neurons
write: a layer's neurons add up to the MLP's own total, ``scores.node_totals()``. This is
attribution patching (Nanda 2023; Kramár et al. 2024) of neurons.
"""

from typing import Literal

import torch
from torch import Tensor

from circuitlapse.attribution.eap import check_gradient_at_clean, embeddings
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Decoder
from circuitlapse.models.layers import single
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.shapes import Float
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs

NeuronMethod = Literal["eap", "eap-ig-inputs"]


def neuron_scores(
    model: Model,
    pairs: PromptPairs,
    method: NeuronMethod = "eap-ig-inputs",
    steps: int = 5,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "layers d_mlp"]:
    """Score every hidden neuron of every MLP.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their metric.
        method: ``eap`` or ``eap-ig-inputs``.
        steps: m of ``eap-ig-inputs``; ``eap`` ignores it.
        metric: See :mod:`circuitlapse.tasks.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Mean over the prompts, in the metric's unit; positive where corrupting the neuron lowers
        the metric. Scores are additive: sum any group of neurons, in one layer or several, for the
        group's.

    Raises:
        CircuitlapseError: If the method is unknown, or the model cannot run the pairs.
    """
    if method not in ("eap", "eap-ig-inputs"):
        raise CircuitlapseError(
            "neurons are scored by gradients", got=method, fix="Use eap or eap-ig-inputs"
        )
    if steps < 1:
        raise CircuitlapseError("steps must be at least 1", got=steps)
    if method == "eap":
        check_gradient_at_clean(metric)
    decoder = model.decoder
    d_mlp = decoder.mlp[0].W_out.shape[0]
    sums = torch.zeros(decoder.n_layers, d_mlp, dtype=torch.float64)

    def work(batch: Suffixes) -> None:
        sums.add_(_batch_scores(decoder, batch, embeddings(batch, method, steps)))

    floats_per_token = decoder.d_model * 24 * decoder.n_layers + 4 * d_mlp
    each_batch(
        decoder, pairs, floats_per_token, work,
        metric=metric, batch_size=batch_size, needs_gradient=True,
    )  # fmt: skip
    return (sums / len(pairs)).float()


def _batch_scores(
    decoder: Decoder, batch: Suffixes, runs: list[Float[Tensor, "batch pos d_model"]]
) -> Float[Tensor, "layers d_mlp"]:
    """Sum over one batch, with the mean of the gradients of some runs from given embeddings."""
    gradients: list[Tensor] = []
    for x in runs:
        with torch.enable_grad():
            steps = decoder.trace(x.detach().requires_grad_(), batch.context)
            metric = batch.metric(decoder, steps[-1].resid_post).sum()
            # What an MLP writes is added to the stream: their gradients are one.
            found = torch.autograd.grad(-metric, [step.resid_post for step in steps])
        found = list(map(single, found))
        gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else found
    sums = []
    with torch.no_grad():
        clean = decoder.trace(batch.clean, batch.context)
        corrupt = decoder.trace(batch.corrupt, batch.context)
        for mlp, ours, theirs, gradient in zip(decoder.mlp, clean, corrupt, gradients, strict=True):
            change = mlp.hidden(theirs.resid_mid) - mlp.hidden(ours.resid_mid)
            products = change * (gradient @ single(mlp.W_out).T)
            sums.append((products.flatten(0, 1).sum(dim=0) / len(runs)).double().cpu())
    return torch.stack(sums)

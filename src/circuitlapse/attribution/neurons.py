"""Scores of the MLPs' hidden neurons, by the gradient methods.

A neuron writes its activation times its row of the output weights, so its score is a node's: Σ over
positions of (h corrupt − h clean) · ∂L/∂h, with L = −metric and the method's gradient
(:mod:`circuitlapse.attribution.eap`, :mod:`circuitlapse.attribution.activations`). A layer's
neurons add up to the MLP's total, ``scores.node_totals()``. This is attribution patching (Nanda
2023; Kramár et al. 2024) of neurons. Exact effects (:func:`circuitlapse.neuron_effects`) do not add
up.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from circuitlapse.attribution.activations import both_runs, each_node, n_runs
from circuitlapse.attribution.eap import check_gradient_at_clean, embeddings
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import single
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float

NeuronMethod = Literal["eap", "eap-ig-inputs", "eap-ig-activations"]


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
        method: ``eap``, ``eap-ig-inputs`` or ``eap-ig-activations``.
        steps: m of the two EAP-IG methods; ``eap`` ignores it.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Mean over the prompts, in the metric's unit; positive where corrupting the neuron lowers the
        metric. Scores of a group of neurons add up, in one layer or several.

    Raises:
        CircuitlapseError: If the method is unknown, or the model cannot run the pairs.
    """
    if method not in get_args(NeuronMethod):
        raise CircuitlapseError(
            "neurons are scored by gradients",
            got=method,
            fix="Use eap, eap-ig-inputs or eap-ig-activations; neuron_effects patches groups of "
            "neurons exactly",
        )
    if steps < 1:
        raise CircuitlapseError("steps must be at least 1", got=steps)
    if method == "eap":
        check_gradient_at_clean(metric)
    decoder = model.decoder
    d_mlp = decoder.mlp[0].W_out.shape[0]
    sums = torch.zeros(decoder.n_layers, d_mlp, dtype=torch.float64)

    def work(batch: Suffixes) -> Tensor:
        if method == "eap-ig-activations":
            gradients, n = _held(decoder, batch, steps), n_runs(decoder, steps)
        else:
            runs = embeddings(batch, method, steps)
            gradients, n = _interpolated(decoder, batch, runs), len(runs)
        return _products(decoder, batch, gradients) / n

    def keep(_: Tensor, found: Tensor) -> None:
        sums.add_(found)

    floats_per_token = decoder.d_model * 24 * decoder.n_layers + 4 * d_mlp
    if method == "eap-ig-activations":
        floats_per_token += decoder.d_model * (steps * decoder.n_layers + 3 * decoder.n_heads)
    each_batch(
        decoder,
        pairs,
        floats_per_token,
        work,
        keep=keep,
        metric=metric,
        batch_size=batch_size,
        needs_gradient=True,
    )
    return (sums / len(pairs)).float()


def _interpolated(
    decoder: Decoder, batch: Suffixes, runs: list[Float[Tensor, "batch pos d_model"]]
) -> list[Float[Tensor, "batch _ d_model"]]:
    """Sum the gradients after each layer over runs from given embeddings."""
    gradients: list[Tensor] = []
    for x in runs:
        with torch.enable_grad():
            steps = decoder.trace(x.detach().requires_grad_(), batch.context)
            metric = batch.metric(decoder, steps[-1].resid_post).sum()
            # What an MLP writes is added to the stream: their gradients are one.
            found = torch.autograd.grad(-metric, [step.resid_post for step in steps])
        gradients = _added(gradients, list(map(single, found)))
    return gradients


def _held(decoder: Decoder, batch: Suffixes, steps: int) -> list[Float[Tensor, "batch _ d_model"]]:
    """Sum the gradients after each layer over runs in which a node's output is replaced."""
    gradients: list[Tensor] = []
    for found in each_node(decoder, batch, *both_runs(decoder, batch), steps):
        gradients = _added(gradients, found.behind_layers(batch))
        del found  # the next ones need its room
    return gradients


def _added(total: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(total, new, strict=True)] if total else new


@torch.no_grad()
def _products(
    decoder: Decoder, batch: Suffixes, gradients: list[Float[Tensor, "batch _ d_model"]]
) -> Float[Tensor, "layers d_mlp"]:
    """Multiply the changes of a batch's neurons by the gradients at their outputs."""
    clean = decoder.trace(batch.clean, batch.context)
    corrupt = decoder.trace(batch.corrupt, batch.context)
    sums = []
    for mlp, ours, theirs, gradient in zip(decoder.mlp, clean, corrupt, gradients, strict=True):
        change = mlp.hidden(theirs.resid_mid) - mlp.hidden(ours.resid_mid)
        products = change * (gradient @ single(mlp.W_out).T)
        sums.append(products.flatten(0, 1).sum(dim=0).double().cpu())
    return torch.stack(sums)

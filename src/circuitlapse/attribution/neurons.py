"""Scores of the MLPs' hidden neurons, by the gradient methods.

A neuron writes its activation times its row of the output weights, so its score is a node's: Σ over
positions of (h corrupt − h clean) · ∂L/∂h, with L = −metric and the method's gradient
(:mod:`circuitlapse.attribution.eap`, :mod:`circuitlapse.attribution.activations`). A layer's
neurons add up to the MLP's total, ``scores.node_totals()``. This is attribution patching (Nanda
2023; Kramár et al. 2024) of neurons. Exact effects (:func:`circuitlapse.neuron_effects`) do not add
up.
"""

from collections.abc import Iterator
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

    n_gradients = {"eap": 1, "eap-ig-inputs": steps, "eap-ig-activations": n_runs(decoder, steps)}

    def work(batch: Suffixes) -> Tensor:
        total: list[Tensor] = []
        for found in _gradients(decoder, batch, method, steps):
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return _products(decoder, batch, total) / n_gradients[method]

    def keep(_: Tensor, found: Tensor) -> None:
        sums.add_(found)

    floats = decoder.d_model * 24 * decoder.n_layers + 4 * d_mlp
    if method == "eap-ig-activations":
        floats += decoder.d_model * (steps * decoder.n_layers + 3 * decoder.n_heads)
    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=keep, needs_gradient=True)
    return (sums / len(pairs)).float()


def _gradients(
    decoder: Decoder, batch: Suffixes, method: NeuronMethod, steps: int
) -> Iterator[list[Float[Tensor, "batch _ d_model"]]]:
    """Yield gradients at each layer's MLP output; their sum is that of all runs."""
    if method == "eap-ig-activations":
        for gradients in each_node(decoder, batch, *both_runs(decoder, batch), steps):
            yield gradients.after_layers()
            del gradients  # frees memory for the next ones
        return
    for x in embeddings(batch, method, steps):
        with torch.enable_grad():
            trace = decoder.trace(x.detach().requires_grad_(), batch.context)
            metric = batch.metric(decoder, trace[-1].resid_post).sum()
            # An MLP's output is added to the stream, so it has the stream's gradient.
            found = torch.autograd.grad(-metric, [step.resid_post for step in trace])
        yield list(map(single, found))


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

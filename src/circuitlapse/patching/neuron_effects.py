"""Activation patching of groups of hidden neurons, with one forward pass per group.

:func:`circuitlapse.neuron_scores` estimates the effects of all neurons, to choose groups by.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.partial_forward import Tail, floats_per_token, moves, trace_parts
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float


@torch.no_grad()
def neuron_effects(
    model: Model,
    pairs: PromptPairs,
    groups: Sequence[tuple[int, Sequence[int]]],
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "prompts groups"]:
    """Patch corrupt activations into groups of neurons, at all positions.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their metric.
        groups: Each a layer and the numbers of its MLP's neurons that are patched together.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Clean metric minus patched metric, in the metric's unit (logits): positive where the model
        needs the group. All neurons of a layer have the effect of the MLP itself.

    Raises:
        CircuitlapseError: If a group names an unknown layer or neuron, or one twice, or the model
            cannot run the pairs.
    """
    decoder = model.decoder
    for layer, neurons in groups:
        _check(decoder, layer, neurons)
    effects = torch.zeros(len(pairs), len(groups))
    needs = ("resid_mid",)

    def work(batch: Suffixes) -> Tensor:
        found = torch.empty(len(batch.rows), len(groups))
        clean = decoder.trace(batch.clean, batch.context)
        corrupt, _ = trace_parts(decoder, batch.corrupt, batch.context, needs)
        before = batch.metric(decoder, clean[-1].resid_post)
        whole = Tail.at(decoder, batch, clean)
        for index, (layer, neurons) in enumerate(groups):
            mlp, some = decoder.mlp[layer], torch.tensor(neurons, dtype=torch.long)
            some = some.to(before.device)
            hidden, ours = (mlp.hidden(run[layer].resid_mid) for run in (corrupt, clean))
            change = ((hidden - ours)[..., some] @ mlp.W_out[some])[None]
            effect = (before - whole.after_mlp(layer, change)).where(moves(change), 0.0)
            found[:, index] = effect[0].float().cpu()
        return found

    floats = floats_per_token(decoder, needs, 1) + 3 * len(decoder.mlp[0].W_out)
    each_batch(
        decoder,
        pairs,
        floats,
        work,
        keep=effects.__setitem__,
        metric=metric,
        batch_size=batch_size,
    )
    return effects


def _check(decoder: Decoder, layer: int, neurons: Sequence[int]) -> None:
    if not 0 <= layer < decoder.n_layers:
        raise CircuitlapseError(f"layers have numbers from 0 to {decoder.n_layers - 1}", got=layer)
    most = len(decoder.mlp[layer].W_out)
    if len(set(neurons)) != len(neurons) or not all(0 <= each < most for each in neurons):
        raise CircuitlapseError(
            f"a group names each of its neurons once, by a number from 0 to {most - 1}",
            got=f"{list(neurons)} in layer {layer}",
        )

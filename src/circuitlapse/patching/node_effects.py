"""Activation patching of whole nodes, and of groups of hidden neurons, at all positions.

Each effect takes one partial forward pass. :func:`circuitlapse.neuron_scores` estimates the effects
of all neurons, to choose groups by.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.directions import Runs, run_both
from circuitlapse.patching.partial_forward import changes_anything, floats_per_token
from circuitlapse.patching.sites import SitePatches
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float

Patched = Callable[[Runs], Iterator[tuple[Tensor, Tensor]]]
"""Yields changes of a layer's output, ``[variants, batch, queries, d_model]``, and the metric with
each, ``[variants, batch]``."""


def node_effects(
    model: Model, pairs: PromptPairs, metric: Metric = "logit_diff", batch_size: int | None = None
) -> Float[Tensor, "prompts nodes"]:
    """Patch the corrupt output of each head and each MLP into the clean run, at all positions.

    Args:
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Clean metric minus patched metric, in its unit (logits): positive where the node is
        necessary, and exactly 0 where its output is the same. The nodes are in the order of
        ``model.graph.nodes``.
    """

    def patched(runs: Runs) -> Iterator[tuple[Tensor, Tensor]]:
        forward, patches = runs.forward(), SitePatches(runs, "head_out")
        for layer, (ours, theirs) in enumerate(zip(runs.base, runs.source, strict=True)):
            heads = patches.head_changes(layer)
            yield heads, forward.after_attention(layer, heads)
            mlp = (theirs.mlp_out - ours.mlp_out)[None]
            yield mlp, forward.after_mlp(layer, mlp)

    needs, n_nodes = ("z", "mlp_out"), len(model.graph.nodes)
    floats = floats_per_token(model.decoder, needs, model.graph.n_heads)
    return _effects(model, pairs, needs, n_nodes, floats, patched, metric, batch_size)


def neuron_effects(
    model: Model,
    pairs: PromptPairs,
    groups: Sequence[tuple[int, Sequence[int]]],
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "prompts groups"]:
    """Patch corrupt activations into groups of neurons, at all positions.

    Args:
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

    def patched(runs: Runs) -> Iterator[tuple[Tensor, Tensor]]:
        forward = runs.forward()
        for layer, neurons in groups:
            mlp, some = decoder.mlp[layer], torch.tensor(neurons, dtype=torch.long)
            some = some.to(model.device)
            theirs, ours = (mlp.hidden(run[layer].resid_mid) for run in (runs.source, runs.base))
            change = ((theirs - ours)[..., some] @ mlp.W_out[some])[None]
            yield change, forward.after_mlp(layer, change)

    needs = ("resid_mid",)
    floats = floats_per_token(decoder, needs, 1) + 3 * len(decoder.mlp[0].W_out)
    return _effects(model, pairs, needs, len(groups), floats, patched, metric, batch_size)


@torch.no_grad()
def _effects(
    model: Model,
    pairs: PromptPairs,
    needs: tuple[str, ...],
    n_effects: int,
    floats: int,
    patched: Patched,
    metric: Metric,
    batch_size: int | None,
) -> Float[Tensor, "prompts effects"]:
    decoder, effects = model.decoder, torch.empty(len(pairs), n_effects)

    def work(batch: Suffixes) -> Tensor:
        runs, found = run_both(decoder, batch, needs), torch.empty(n_effects, len(batch.rows))
        first = 0
        for change, after in patched(runs):
            effect = (runs.clean - after).where(changes_anything(change), 0.0)
            found[first : first + len(effect)] = effect.float()
            first += len(effect)
        return found.T

    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=effects.__setitem__)
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

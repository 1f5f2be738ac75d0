"""The logit lens: the model's answer if it ended after each layer.

nostalgebraist (2020), "interpreting GPT: the logit lens": the residual stream before every layer
goes through the last normalisation and the unembedding.
"""

import torch
from torch import Tensor

from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.whole import Layers, run_layers
from circuitlapse.shapes import Float


@torch.no_grad()
def logit_lens(
    model: Model,
    pairs: PromptPairs,
    metric: Metric = "logit_diff",
    mid: bool = False,
    batch_size: int | None = None,
) -> Float[Tensor, "points prompts"]:
    """Compute the metric from the clean prompts' residual stream before each layer and at the end.

    This is the *accumulated* lens, and each stream is normalised by its own mean and scale. A lens
    whose scale is frozen to that at the end is the running sum of :func:`direct_logit_attribution`.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with their metric; only the clean ones are used.
        metric: See :mod:`circuitlapse.prompts.metrics`. ``neg_kl`` compares with the whole model.
        mid: Whether to include the stream between each layer's attention and its MLP.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        The metric in its unit (logits), one row before each layer and a last one that is the
        model's own: ``[layers + 1, prompts]``; with ``mid``, ``[2 layers + 1, prompts]``.

    Raises:
        CircuitlapseError: If the model cannot run the pairs or the metric does not fit them.
    """
    decoder = model.decoder
    values = torch.empty((2 if mid else 1) * decoder.n_layers + 1, len(pairs))

    def work(batch: Suffixes) -> Tensor:
        return lens_of(decoder, batch, run_layers(decoder, batch), mid)

    def keep(rows: Tensor, read: Tensor) -> None:
        values[:, rows] = read

    each_batch(
        decoder,
        pairs,
        16 * decoder.d_model,
        work,
        keep=keep,
        metric=metric,
        batch_size=batch_size,
    )
    return values


def lens_of(
    decoder: Decoder, batch: Suffixes, layers: Layers, mid: bool = False
) -> Float[Tensor, "points batch"]:
    """Compute the metric from one run; see :func:`logit_lens`."""
    points: list[Tensor] = []
    for before, added in zip(layers.before, layers.added, strict=True):
        points += [before, before + added] if mid else [before]
    read = batch.metric(decoder, torch.cat([*points, layers.final]))
    return read.unflatten(0, (len(points) + 1, -1)).float().cpu()

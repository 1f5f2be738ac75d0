"""The logit lens: what the model would answer if it stopped at each layer.

nostalgebraist (2020), "interpreting GPT: the logit lens": the residual stream before every layer is
put through the last normalisation and the unembedding, as if no layer followed.
"""

import torch
from torch import Tensor

from circuitlapse.models.context import at_reads
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.shapes import Float
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs


@torch.no_grad()
def logit_lens(
    model: Model,
    pairs: PromptPairs,
    metric: Metric = "logit_diff",
    mid: bool = False,
    batch_size: int | None = None,
) -> Float[Tensor, "points prompts"]:
    """Read the metric from the clean prompts' residual stream before each layer and at the end.

    The stream holds all that was added to it so far (the *accumulated* lens), and each reading is
    normalised by its own mean and scale. A lens whose scale is frozen at the model's end is the
    running sum of :func:`direct_logit_attribution`.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with their metric; only the clean ones are read.
        metric: See :mod:`circuitlapse.tasks.metrics`. ``neg_kl`` compares with the whole model.
        mid: Whether to read between each layer's attention and its MLP, too.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        The metric in its unit (logits), one row before each layer and a last one that is the
        model's own: ``[layers + 1, prompts]``; with ``mid``, ``[2 layers + 1, prompts]``.

    Raises:
        CircuitlapseError: If the model cannot run the pairs or the metric does not fit them.
    """
    decoder = model.decoder
    n_points = (2 if mid else 1) * decoder.n_layers + 1
    values = torch.empty(n_points, len(pairs))

    def work(batch: Suffixes) -> None:
        x, context, streams = batch.clean, batch.context, []
        for layer in range(decoder.n_layers):
            streams.append(at_reads(x, context))
            step = decoder.step(layer, x, context)
            if mid:
                last = decoder.is_last(layer)
                added = step.attn_out if last else at_reads(step.attn_out, context)
                streams.append(streams[-1] + added)
            x = step.resid_post
        read = batch.metric(decoder, torch.cat([*streams, x]))
        values[:, batch.rows] = read.unflatten(0, (n_points, -1)).float().cpu()

    each_batch(decoder, pairs, 16 * decoder.d_model, work, metric=metric, batch_size=batch_size)
    return values

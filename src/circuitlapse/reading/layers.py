"""One run of the clean prompts, kept where logits are read: several readings are made of it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from circuitlapse.models.context import Context, at_reads
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.prefix import Suffixes


@dataclass(frozen=True)
class Layers:
    """What a run left where logits are read, each ``[batch, reads, …]``, in an entry per layer.

    Attributes:
        before: Residual stream before the layer.
        z: The heads' mixed values.
        added: What the attention added to the stream.
        mlp_out: What the MLP added to it.
        final: Residual stream behind the last layer.
    """

    before: list[Tensor]
    z: list[Tensor]
    added: list[Tensor]
    mlp_out: list[Tensor]
    final: Tensor


def run_layers(
    decoder: Decoder, batch: Suffixes, look: Callable[[int, Step, Context], None] | None = None
) -> Layers:
    """Run the clean prompts of a batch.

    Args:
        decoder: The model.
        batch: The prompts.
        look: Called with each layer, all that it computed and its surroundings. Given this, the
            last layer runs at all positions, too.
    """
    x, reads, parts = batch.clean, batch.context, list[tuple[Tensor, ...]]()
    context = reads if look is None else batch.everywhere()
    for layer in range(decoder.n_layers):
        step = decoder.step(layer, x, context)
        if look is not None:
            look(layer, step, context)
        kept = (step.z, step.attn_out, step.mlp_out)
        if look is not None or not decoder.is_last(layer):
            kept = tuple(at_reads(each, reads) for each in kept)
        parts.append((at_reads(x, reads), *kept))
        x = step.resid_post
    final = x if look is None else at_reads(x, reads)
    return Layers(*(list(each) for each in zip(*parts, strict=True)), final=final)

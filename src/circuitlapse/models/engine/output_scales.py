"""Models whose heads and MLPs have rescaled outputs.

An output scale is one factor on all that a node writes to the residual stream: on a head's output
matrix, or on an MLP's output weights and bias.
"""

from dataclasses import replace

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.shapes import Float


def rescaled_decoder(decoder: Decoder, scales: Float[Tensor, " nodes"]) -> Decoder:
    """Rescale every node's output; differentiable in the scales, which are in graph order.

    Raises:
        CircuitlapseError: If there is not one scale per node.
    """
    expected = decoder.n_layers * (decoder.n_heads + 1)
    if len(scales) != expected:
        raise CircuitlapseError(
            "a model needs one scale for each head and MLP", got=f"{len(scales)} for {expected}"
        )
    by_layer = scales.unflatten(0, (decoder.n_layers, -1))
    return replace(
        decoder,
        attention=tuple(
            replace(block, W_O=block.W_O * own[:-1, None, None])
            for block, own in zip(decoder.attention, by_layer, strict=True)
        ),
        mlp=tuple(
            replace(
                mlp,
                W_out=mlp.W_out * own[-1],
                b_out=None if mlp.b_out is None else mlp.b_out * own[-1],
            )
            for mlp, own in zip(decoder.mlp, by_layer, strict=True)
        ),
        prefix_cache=None,  # it holds keys and values of the unscaled model
    )


@torch.no_grad()
def write_scales(model: Model, scales: Float[Tensor, " nodes"]) -> None:
    """Multiply the scales into the weights of a model, in place."""
    scaled = rescaled_decoder(model.decoder, scales.to(model.decoder.W_E))
    for ours, theirs in zip(model.decoder.attention, scaled.attention, strict=True):
        ours.W_O.copy_(theirs.W_O)
    for ours, theirs in zip(model.decoder.mlp, scaled.mlp, strict=True):
        ours.W_out.copy_(theirs.W_out)
        if ours.b_out is not None and theirs.b_out is not None:
            ours.b_out.copy_(theirs.b_out)

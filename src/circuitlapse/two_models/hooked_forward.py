"""Forward passes with hooks on attention and MLP outputs."""

from collections.abc import Callable

from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.shapes import Float

Change = Callable[[int, Tensor], Tensor]


def run_with_hooks(
    decoder: Decoder,
    x: Float[Tensor, "batch pos d_model"],
    context: Context,
    attention: Change | None = None,
    mlp: Change | None = None,
    layer: int = 0,
) -> Float[Tensor, "batch reads d_model"]:
    """Run all blocks from ``layer`` on, with hooks on attention and MLP outputs.

    Args:
        decoder: The model.
        x: Embedded prompts, or the residual stream before ``layer``.
        context: The cached prefix, and the positions that need logits.
        attention: Given a layer and its heads' mixed values before W_O, ``[batch, pos, heads,
            d_head]``, returns the attention output, ``[batch, pos, d_model]``. In the last layer
            ``pos`` are the positions that need logits.
        mlp: Given a layer and its MLP's output, returns the output to use.
        layer: The first layer to run.
    """
    for current in range(layer, decoder.n_layers):
        q, k, v = decoder.attention[current].project(x)
        q, stream = (decoder.to_queries(current, each, context) for each in (q, x))
        z = decoder.attend(current, q, k, v, context)
        added = attention(current, z) if attention else decoder.attention_out(current, z)
        after = stream + added
        out = decoder.mlp[current](stream if decoder.parallel else after)
        x = after + (mlp(current, out) if mlp else out)
    return x


def check_same_architecture(base: Model, tuned: Model) -> None:
    """Check that two models' parameters have the same names and shapes.

    Raises:
        CircuitlapseError: With the first parameter that differs.
    """
    both = [
        {name: tuple(parameter.shape) for name, parameter in model.hf.named_parameters()}
        for model in (base, tuned)
    ]
    for name in sorted(both[0].keys() | both[1].keys()):
        shapes = [side.get(name, "nothing") for side in both]
        if shapes[0] != shapes[1]:
            raise CircuitlapseError(
                f"base and tuned model differ in the shape of {name}",
                got=f"{shapes[0]} and {shapes[1]}",
                fix="Fine-tune without changing the architecture or adding tokens",
            )

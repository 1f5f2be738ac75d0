"""Reading single modules, as views of their weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import NewGELUActivation

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.layers import Norm, Rotary
from circuitlapse.shapes import Float

_FIXED_ROPES = ("default", "linear", "llama3", "yarn")


def read_weight(module: nn.Linear) -> Float[Tensor, "inner out"]:
    """Read the weights of a linear layer."""
    return module.weight.detach().T


def read_bias(module: nn.Linear) -> Float[Tensor, " out"] | None:
    """Read the bias of a linear layer, if it has one."""
    return None if module.bias is None else module.bias.detach()


def read_norm(module: Any) -> Norm:
    """Read a layer normalisation or an RMS normalisation."""
    if isinstance(module, nn.LayerNorm):
        bias = None if module.bias is None else module.bias.detach()
        return Norm(module.weight.detach(), bias, module.eps)
    return Norm(module.weight.detach(), None, module.variance_epsilon, centred=False)


def read_activation(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Take an activation as it is, or the same function in one kernel instead of eight."""
    if isinstance(module, NewGELUActivation):
        return partial(functional.gelu, approximate="tanh")
    return module


def read_rotary(module: Any) -> Rotary:
    """Read a rotary embedding.

    Raises:
        CircuitlapseError: If its angles change with the prompt's length.
    """
    if module.rope_type not in _FIXED_ROPES:
        raise CircuitlapseError(
            "this rotary embedding changes with the length of the prompt, which is not supported",
            got=f"rope_type {module.rope_type}",
            fix=f"Supported: {', '.join(_FIXED_ROPES)}",
        )
    return Rotary(module.inv_freq.float(), float(module.attention_scaling))

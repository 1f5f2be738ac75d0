"""Read single modules, as views of their weights."""

from math import pi, sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.layers import Mlp, Norm, Rotary
from circuitlapse.shapes import Float

_CACHED = 2**16  # numbers per thread that fit its core's cache twice
_GELU_BY_TANH = tuple(type(ACT2FN[name]) for name in ("gelu_new", "gelu_pytorch_tanh"))
_FIXED_ROPES = ("default", "linear", "llama3", "yarn")


def read_weight(module: nn.Linear | Conv1D) -> Float[Tensor, "inner out"]:
    """Read the weights of a linear layer."""
    weight = module.weight.detach()
    return weight if isinstance(module, Conv1D) else weight.T


def read_bias(module: Any) -> Float[Tensor, " out"] | None:
    """Read the bias of a linear layer or a normalisation, if it has one."""
    return None if module.bias is None else module.bias.detach()


def read_norm(module: Any) -> Norm:
    """Read a layer normalisation or an RMS normalisation."""
    if isinstance(module, nn.LayerNorm):
        return Norm(module.weight.detach(), read_bias(module), module.eps)
    return Norm(module.weight.detach(), None, module.variance_epsilon, centred=False)


def read_mlp(
    norm: nn.Module,
    into: nn.Linear | Conv1D,
    out: nn.Linear | Conv1D,
    activation: nn.Module,
    gate: nn.Linear | None = None,
) -> Mlp:
    """Read an MLP from its modules, with a faster activation kernel if there is one."""
    return Mlp(
        norm=read_norm(norm),
        W_in=read_weight(into),
        b_in=read_bias(into),
        W_out=read_weight(out),
        b_out=read_bias(out),
        activation=gelu_ if isinstance(activation, _GELU_BY_TANH) else activation,
        W_gate=None if gate is None else read_weight(gate),
        b_gate=None if gate is None else read_bias(gate),
    )


def gelu_(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """GELU by its tanh approximation (Hendrycks & Gimpel 2016), in place on contiguous ``x``.

    With u = √(2/π) (x + 0.044715 x³) it is x σ(2u), which a CPU computes in half the time of
    torch's kernel, in blocks that fit the cache. In half precision, on a GPU and with gradients,
    torch's kernel runs and ``x`` is unchanged.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return functional.gelu(x, approximate="tanh")
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(Tensor, _TapedGelu.apply(x))
    at_once = _CACHED * torch.get_num_threads()
    factor = x.new_empty(min(x.numel(), at_once))
    for part in x.view(-1).split(at_once):
        sigma = torch.mul(part, part, out=factor[: len(part)])
        sigma.mul_(0.044715).add_(1).mul_(part).mul_(2 * sqrt(2 / pi)).sigmoid_()
        part.mul_(sigma)
    return x


class _TapedGelu(torch.autograd.Function):
    """The same values with a gradient, so that results do not depend on whether one is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return gelu_(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.gelu_backward(gradients[0], x, approximate="tanh")


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

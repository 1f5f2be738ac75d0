"""The parts of a block, with options that cover the model families.

Weights are views of a ``transformers`` model's, as ``[in, out]`` however the family stores them. A
part that a family lacks is None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from circuitlapse.shapes import Float, Int


@dataclass(frozen=True)
class Norm:
    """Normalisation over the last axis."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float  # added to the variance or mean square
    centred: bool = True  # layer normalisation subtracts the mean, RMS normalisation does not

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise."""
        if self.centred:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        if x.dtype in (torch.float16, torch.bfloat16):
            # As transformers rounds: a small input's norm magnifies any other rounding.
            single = functional.rms_norm(x.float(), self.weight.shape, eps=self.eps)
            return self.weight * single.to(x.dtype)
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def standardise(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch 1"]]:
        """Return x̂ and 1/σ, which give the Jacobian of the normalisation.

        ∂x̂/∂x = (P − x̂ x̂ᵀ / d_model) / σ, with P the projection that removes the mean, or the
        identity for RMS normalisation; :meth:`folded` includes P. Both are in single precision
        where ``x`` is in half, whose squares overflow.
        """
        x = single(x)
        if not self.centred:
            inverse = (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
            return x * inverse, inverse
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        inverse = (variance + self.eps).rsqrt()
        return (x - mean) * inverse, inverse

    def folded(
        self, weight: Float[Tensor, "*slots d_model out"]
    ) -> Float[Tensor, "*slots d_model out"]:
        """Return ``P diag(self.weight) weight``, in single precision if the weights are in half."""
        ours, weight = single(self.weight), single(weight)
        if not self.centred:
            return ours[:, None] * weight
        mean = (ours @ weight)[..., None, :] / len(ours)
        return torch.addcmul(-mean, ours[:, None], weight)


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding of queries and keys (Su et al. 2021).

    Dimension i of the first half is rotated with dimension i of the second half. Dimensions beyond
    twice the number of frequencies stay unchanged.
    """

    frequencies: Float[Tensor, " half"]  # radians per position
    scale: float = 1.0  # of the rotated dimensions; 1 but for YaRN

    def __call__(
        self, x: Float[Tensor, "batch pos heads d_head"], positions: Int[Tensor, "_ pos"]
    ) -> Float[Tensor, "batch pos heads d_head"]:
        """Rotate ``x`` by its positions; the batch may hold several variants of the positions'."""
        angles = (positions[..., None] * self.frequencies)[:, :, None]
        cos = (angles.cos() * self.scale).to(x.dtype)
        sin = (angles.sin() * self.scale).to(x.dtype)
        half = len(self.frequencies)
        variants = x.unflatten(0, (-1, len(positions)))
        first, second = variants[..., :half], variants[..., half : 2 * half]
        rotated = [first * cos - second * sin, second * cos + first * sin]
        return torch.cat([*rotated, variants[..., 2 * half :]], dim=-1).flatten(0, 1)


@dataclass(frozen=True)
class Attention:
    """Weights of one block's attention."""

    norm: Norm
    weights: tuple[Float[Tensor, "d_model _"], ...]  # of q, k and v each, or one fused matrix
    biases: tuple[Float[Tensor, " _"], ...] | None
    W_O: Float[Tensor, "heads d_head d_model"]
    out_bias: Float[Tensor, " d_model"] | None  # belongs to no head
    scale: float  # of the products of queries and keys
    interleaved: bool = False  # in a fused matrix, whether each head's q, k and v lie together
    q_norm: Norm | None = None  # of each head's queries
    k_norm: Norm | None = None

    @property
    def n_kv_heads(self) -> int:
        """Number of key-value heads."""
        return self._by_head(self.weights)[1].shape[-2]

    def project(
        self, x: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos _ d_head"], ...]:
        """Normalise the attention's input and return queries, keys and values."""
        slots = self._projected(self.norm(x).flatten(0, 1))
        return tuple(slot.unflatten(0, x.shape[:2]) for slot in slots)

    def constants(self) -> Float[Tensor, "slots d_head"]:
        """The parts of all queries, keys and values that come from biases alone."""
        bias = self.norm.bias
        bias = torch.zeros_like(self.norm.weight) if bias is None else bias
        return torch.cat([slot[0] for slot in self._projected(bias[None])])

    def slot(
        self, index: int
    ) -> tuple[Float[Tensor, "_ d_model d_head"], Float[Tensor, "_ d_head"] | None]:
        """Weight and bias of the queries (0), keys (1) or values (2), by head."""
        weight = self._by_head(self.weights)[index].movedim(-2, 0)
        return weight, None if self.biases is None else self._by_head(self.biases)[index]

    def _projected(self, normed: Float[Tensor, "rows d_model"]) -> tuple[Tensor, ...]:
        biases = self.biases or (None,) * len(self.weights)
        pairs = zip(self.weights, biases, strict=True)
        return self._by_head([linear(normed, weight, bias) for weight, bias in pairs])

    def _by_head(self, parts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Split the last axis of weights, biases or outputs into heads, for q, k and v."""
        heads, d_head, _ = self.W_O.shape
        if len(parts) == 3:
            return tuple(part.unflatten(-1, (-1, d_head)) for part in parts)
        if self.interleaved:
            return parts[0].unflatten(-1, (heads, 3, d_head)).unbind(-2)
        return parts[0].unflatten(-1, (3, heads, d_head)).unbind(-3)


@dataclass(frozen=True)
class Mlp:
    """Weights of one block's MLP: ``activation(x W_in) W_out``.

    If gated, the hidden neurons are ``activation(x W_gate) · (x W_in)``. The activation may work in
    place.
    """

    norm: Norm
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None
    activation: Callable[[Tensor], Tensor]
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None

    def hidden(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_mlp"]:
        """Return the neurons' activations, given the residual stream ``x``."""
        flat = self.norm(x).reshape(-1, x.shape[-1])
        neurons = linear(flat, self.W_in, self.b_in)
        if self.W_gate is None:
            neurons = self.activation(neurons)
        else:
            neurons = self.activation(linear(flat, self.W_gate, self.b_gate)) * neurons
        return neurons.view(*x.shape[:-1], -1)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the MLP's output, given the residual stream ``x``."""
        return linear(self.hidden(x).flatten(0, -2), self.W_out, self.b_out).view(x.shape)


def single(x: Tensor) -> Tensor:
    """Convert half precision to single, for small differences and long sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def linear(
    x: Float[Tensor, "rows inner"],
    weight: Float[Tensor, "inner out"],
    bias: Float[Tensor, " out"] | None,
) -> Float[Tensor, "rows out"]:
    """Multiply by weights stored as [in, out], and add the bias."""
    return x @ weight if bias is None else torch.addmm(bias, x, weight)

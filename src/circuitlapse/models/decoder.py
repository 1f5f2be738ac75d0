"""One functional pre-norm decoder that all algorithms run on.

It holds views of a ``transformers`` model's weights, not copies, so that it follows every change of
them, and offers the forward in the pieces that circuit analysis needs: start at any layer, after a
prefix whose keys and values are known, with many variants of one batch side by side, and with the
last layer's queries, MLP and logits computed at each prompt's last token only. A model family is
an adapter that fills in these classes (see :mod:`circuitlapse.models.gpt2`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from circuitlapse.models.context import Context, at_end
from circuitlapse.shapes import Float, Int


@dataclass(frozen=True)
class Norm:
    """Layer normalisation over the last axis."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def standardise(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_model"], Float[Tensor, "*batch 1"]]:
        """Return x̂ and 1/σ, of which the Jacobian of the normalisation is made.

        ∂x̂/∂x = (P − x̂ x̂ᵀ / d_model) / σ with P the projection that removes the mean; the weights
        behind it are :meth:`folded`, which includes P.
        """
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        inverse = (variance + self.eps).rsqrt()
        return (x - mean) * inverse, inverse

    def folded(self, weight: Float[Tensor, "d_model out"]) -> Float[Tensor, "d_model out"]:
        """Return ``P diag(self.weight) weight``: a linear map read through this normalisation."""
        scaled = self.weight[:, None] * weight
        return scaled - scaled.mean(dim=0)


@dataclass(frozen=True)
class Attention:
    """Weights of one block's attention; q, k and v lie side by side in ``W_QKV``."""

    norm: Norm
    W_QKV: Float[Tensor, "d_model qkv"]
    qkv_bias: Float[Tensor, " qkv"]
    W_O: Float[Tensor, "heads d_head d_model"]
    out_bias: Float[Tensor, " d_model"]
    scale: float

    def slot(
        self, index: int
    ) -> tuple[Float[Tensor, "heads d_model d_head"], Float[Tensor, "heads d_head"]]:
        """Weight and bias of the queries (0), keys (1) or values (2), by head."""
        heads, d_head, _ = self.W_O.shape
        weight = self.W_QKV.unflatten(1, (3, heads, d_head))[:, index].transpose(0, 1)
        return weight, self.qkv_bias.view(3, heads, d_head)[index]


@dataclass(frozen=True)
class Mlp:
    """Weights of one block's MLP."""

    norm: Norm
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"]
    activation: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return what the MLP adds to the residual stream ``x``."""
        d_model = x.shape[-1]
        hidden = torch.addmm(self.b_in, self.norm(x).reshape(-1, d_model), self.W_in)
        return torch.addmm(self.b_out, self.activation(hidden), self.W_out).view(x.shape)


class Step(NamedTuple):
    """What one block computed; differentiable where its input was.

    In the last block only keys and values matter anywhere else than at a prompt's last token, so
    that all from ``z`` to ``resid_post`` has a ``pos`` axis of length 1 there.

    Attributes:
        resid_pre: The attention's input, ``[batch, pos, d_model]``.
        q: Queries as projected, ``[batch, pos, heads, d_head]``.
        k: Keys, likewise.
        v: Values, likewise.
        z: Attention-weighted values per head, before W_O, likewise.
        attn_out: What the attention adds, ``[batch, pos, d_model]``.
        resid_mid: The MLP's input, likewise.
        mlp_out: What the MLP adds, likewise.
        resid_post: The next block's input, likewise.
    """

    resid_pre: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    attn_out: Tensor
    resid_mid: Tensor
    mlp_out: Tensor
    resid_post: Tensor


@dataclass(frozen=True)
class Decoder:
    """A pre-norm decoder: attention, then MLP, each reading the residual stream it adds to."""

    W_E: Float[Tensor, "vocab d_model"]
    W_pos: Float[Tensor, "positions d_model"]
    attention: tuple[Attention, ...]
    mlp: tuple[Mlp, ...]
    norm: Norm
    W_U: Float[Tensor, "vocab d_model"]
    n_heads: int

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.mlp)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_E.shape[1]

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.attention[0].W_O.shape[1]

    def embed(
        self, tokens: Int[Tensor, "batch pos"], start: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed tokens that stand at positions ``start`` (or 0) onwards in their prompts."""
        width = tokens.shape[1]
        if start is None:
            return self.W_E[tokens] + self.W_pos[:width]
        positions = start[:, None] + torch.arange(width, device=tokens.device)
        # Padding may reach beyond the last position; what stands there is never read.
        return self.W_E[tokens] + self.W_pos[positions.clamp(max=len(self.W_pos) - 1)]

    def project(
        self, layer: int, x: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, "batch pos heads d_head"], ...]:
        """Normalise the attention's input and return queries, keys and values."""
        block, (batch, pos, d_model) = self.attention[layer], x.shape
        fused = torch.addmm(block.qkv_bias, block.norm(x).reshape(-1, d_model), block.W_QKV)
        return fused.view(batch, pos, 3, self.n_heads, self.d_head).unbind(2)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "batch queries heads d_head"],
        k: Float[Tensor, "batch pos heads d_head"],
        v: Float[Tensor, "batch pos heads d_head"],
        context: Context,
        heads: Tensor | slice = slice(None),
    ) -> Float[Tensor, "batch queries heads d_head"]:
        """Mix values causally; a single query per prompt stands at the prompt's end.

        Args:
            layer: Whose scale and whose past keys and values to use.
            q: Queries; the batch may be several variants of ``context``'s, one after the other.
            k: Keys of the columns that ``context`` describes.
            v: Values, likewise.
            context: What lies to the left, and where the prompts end.
            heads: Which heads these are.
        """
        copies = len(q) // len(context.end)
        mask = context.mask(copies, q.shape[1], k.shape[1], q.dtype)
        if context.past:
            past_k, past_v = (past[:, :, heads] for past in context.past[layer])
            k, v = _after(past_k, k), _after(past_v, v)
        return functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            scale=self.attention[layer].scale,
        ).transpose(1, 2)

    def attention_out(
        self, layer: int, z: Float[Tensor, "batch pos heads d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Map the heads' mixed values to what the attention adds to the residual stream."""
        block, (batch, pos, heads, d_head) = self.attention[layer], z.shape
        flat = z.reshape(batch * pos, heads * d_head)
        return torch.addmm(block.out_bias, flat, block.W_O.view(heads * d_head, -1)).view(
            batch, pos, -1
        )

    def step(self, layer: int, x: Float[Tensor, "batch pos d_model"], context: Context) -> Step:
        """Run one block; the batch may be several variants of the context's.

        A separate node for the MLP's input lets its gradient be told from that of the stream.
        """
        q, k, v = self.project(layer, x)
        stream, queries = x, q
        if layer == self.n_layers - 1:
            queries, stream = at_end(q, context), at_end(x, context)
        z = self.attend(layer, queries, k, v, context)
        added = self.attention_out(layer, z)
        stream = stream + added
        mid = stream.view_as(stream)
        out = self.mlp[layer](mid)
        return Step(x, q, k, v, z, added, mid, out, stream + out)

    def trace(self, x: Float[Tensor, "batch pos d_model"], context: Context) -> list[Step]:
        """Run all blocks on embeddings ``x`` and keep what they computed."""
        steps = []
        for layer in range(self.n_layers):
            steps.append(self.step(layer, x, context))
            x = steps[-1].resid_post
        return steps

    def run(
        self, x: Float[Tensor, "batch pos d_model"], context: Context, layer: int = 0
    ) -> Float[Tensor, "batch d_model"]:
        """Run from the input of ``layer`` to the end, keeping nothing.

        Args:
            x: Residual stream before ``layer``; several variants of the context's batch may lie
                one after the other. Behind the last layer its ``pos`` axis has length 1.
            context: What lies to the left, and where the prompts end.
            layer: Where to begin.

        Returns:
            The residual stream after the last layer, at each prompt's last token.
        """
        for current in range(layer, self.n_layers):
            x = self.step(current, x, context).resid_post
        return x[:, 0]

    def remember(self, tokens: Int[Tensor, "batch pos"]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Compute keys and values of all tokens, per layer; nothing where there are none."""
        if tokens.shape[1] == 0:
            return ()
        context = Context(torch.zeros(len(tokens), dtype=torch.long, device=tokens.device))
        x = self.embed(tokens)
        past = []
        for layer in range(self.n_layers):
            q, k, v = self.project(layer, x)
            past.append((k, v))
            if layer < self.n_layers - 1:
                x = x + self.attention_out(layer, self.attend(layer, q, k, v, context))
                x = x + self.mlp[layer](x)
        return tuple(past)

    def logits(self, final: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch vocab"]:
        """Normalise the last residual stream and unembed it, over the whole vocabulary."""
        return self.norm(final) @ self.W_U.T


def _after(past: Tensor, new: Tensor) -> Tensor:
    """Put new keys or values after the past ones, which all variants in the batch share."""
    copies = len(new) // len(past)
    batch = new.unflatten(0, (copies, len(past)))
    return torch.cat([past.expand(copies, *past.shape), batch], dim=2).flatten(0, 1)

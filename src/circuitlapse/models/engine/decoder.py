"""One functional pre-norm decoder that all algorithms run on.

It holds views of a ``transformers`` model's weights, so it follows every change of them. A forward
pass can start at any layer and after a cached prefix, and can run several variants of a batch at
once. The last layer computes queries, MLP and logits only where logits are needed. A model family
is an adapter that fills in these classes (see :mod:`circuitlapse.models.families`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from circuitlapse.models.engine.context import Context, at_reads
from circuitlapse.models.engine.layers import Attention, Mlp, Norm, Rotary, linear
from circuitlapse.models.engine.prefix_cache import Past, PrefixCache
from circuitlapse.shapes import Float, Int


class Step(NamedTuple):
    """Activations of one block; differentiable where its input was.

    Queries and keys are as projected, before rotation. In the last block, the ``pos`` axis from
    ``z`` to ``resid_post`` has only the positions whose logits are needed.
    """

    resid_pre: Tensor  # the attention's input, [batch, pos, d_model]
    q: Tensor  # [batch, pos, heads, d_head]
    k: Tensor  # [batch, pos, kv_heads, d_head]
    v: Tensor  # [batch, pos, kv_heads, d_head]
    z: Tensor  # attention-weighted values, before W_O, [batch, pos, heads, d_head]
    attn_out: Tensor
    resid_mid: Tensor  # the MLP's input; in a parallel block equal to the attention's
    mlp_out: Tensor
    resid_post: Tensor


@dataclass(frozen=True)
class Decoder:
    """A pre-norm decoder of blocks with one attention and one MLP each."""

    W_E: Float[Tensor, "vocab d_model"]
    W_pos: Float[Tensor, "positions d_model"] | None
    rotary: Rotary | None
    attention: tuple[Attention, ...]
    mlp: tuple[Mlp, ...]
    norm: Norm  # before the unembedding
    W_U: Float[Tensor, "vocab d_model"]
    n_positions: int  # of the longest prompt that runs exactly as in transformers
    parallel: bool = False  # whether MLPs read the block's input, without the attention's output
    prefix_cache: PrefixCache | None = None

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.mlp)

    @property
    def n_heads(self) -> int:
        """Attention heads per block."""
        return self.attention[0].W_O.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_E.shape[1]

    def is_last(self, layer: int) -> bool:
        """Whether this block's output is needed only where logits are."""
        return layer == self.n_layers - 1

    def embed(
        self, tokens: Int[Tensor, "batch pos"], start: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed tokens at the positions from ``start`` (or 0) on."""
        embedded, width = self.W_E[tokens], tokens.shape[1]
        if self.W_pos is None:
            return embedded
        if start is None:
            return embedded + self.W_pos[:width]
        positions = start[:, None] + torch.arange(width, device=tokens.device)
        # Padding may reach beyond the last position; its embeddings are not used.
        return embedded + self.W_pos[positions.clamp(max=len(self.W_pos) - 1)]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "batch queries some d_head"],
        k: Float[Tensor, "batch pos _ d_head"],
        v: Float[Tensor, "batch pos _ d_head"],
        context: Context,
        heads: Tensor | slice = slice(None),
    ) -> Float[Tensor, "batch queries some d_head"]:
        """Mix values causally; in the last layer only the positions that need logits have queries.

        The batch may hold several variants of ``context``'s; ``heads`` says which heads the queries
        belong to.
        """
        q, k, mask = self._queries_and_keys(layer, q, k, context, heads)
        return functional.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            self._values(layer, q.shape[2], v, context, heads).transpose(1, 2),
            attn_mask=mask,
            scale=self.attention[layer].scale,
        ).transpose(1, 2)

    def pattern(
        self,
        layer: int,
        q: Float[Tensor, "batch queries heads d_head"],
        k: Float[Tensor, "batch pos _ d_head"],
        context: Context,
    ) -> Float[Tensor, "batch heads queries keys"]:
        """Attention weights over the cached prefix and the batch's tokens; see :meth:`attend`."""
        q, k, mask = self._queries_and_keys(layer, q, k, context, slice(None))
        products = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)
        return (products * self.attention[layer].scale + mask).softmax(dim=-1)

    def mix(
        self,
        layer: int,
        pattern: Float[Tensor, "batch heads queries keys"],
        v: Float[Tensor, "batch pos _ d_head"],
        context: Context,
    ) -> Float[Tensor, "batch queries heads d_head"]:
        """Mix values by given attention weights; see :meth:`attend`."""
        values = self._values(layer, pattern.shape[1], v, context, slice(None))
        return (pattern @ values.transpose(1, 2)).transpose(1, 2)

    def attention_out(
        self, layer: int, z: Float[Tensor, "batch pos heads d_head"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """Map the heads' mixed values to the attention output."""
        block = self.attention[layer]
        out = linear(z.flatten(0, 1).flatten(1), block.W_O.flatten(0, 1), block.out_bias)
        return out.unflatten(0, z.shape[:2])

    def step(self, layer: int, x: Float[Tensor, "batch pos d_model"], context: Context) -> Step:
        """Run one block; the batch may hold several variants of the context's."""
        q, k, v = self.attention[layer].project(x)
        return self.finish(layer, x, q, k, v, context)

    def finish(
        self,
        layer: int,
        x: Float[Tensor, "batch pos d_model"],
        q: Float[Tensor, "batch pos heads d_head"],
        k: Float[Tensor, "batch pos kv_heads d_head"],
        v: Float[Tensor, "batch pos kv_heads d_head"],
        context: Context,
    ) -> Step:
        """Run a block with given queries, keys and values."""
        queries, stream = (self.to_queries(layer, each, context) for each in (q, x))
        z = self.attend(layer, queries, k, v, context)
        added = self.attention_out(layer, z)
        after = stream + added
        # A view, so that the gradient at the MLP's input is separate from the stream's.
        mid = (stream if self.parallel else after).view_as(stream)
        out = self.mlp[layer](mid)
        return Step(x, q, k, v, z, added, mid, out, after + out)

    def to_queries(self, layer: int, x: Tensor, context: Context) -> Tensor:
        """Select the positions of a layer's queries: in the last layer those that need logits."""
        return at_reads(x, context) if self.is_last(layer) else x

    def trace(
        self, x: Float[Tensor, "batch pos d_model"], context: Context, layer: int = 0
    ) -> list[Step]:
        """Run all blocks from ``layer`` on and return their activations."""
        steps = []
        for current in range(layer, self.n_layers):
            steps.append(self.step(current, x, context))
            x = steps[-1].resid_post
        return steps

    def run(
        self, x: Float[Tensor, "batch pos d_model"], context: Context, layer: int = 0
    ) -> Float[Tensor, "batch reads d_model"]:
        """Run a partial forward pass from the input of ``layer``; return the last residual stream.

        ``x`` may hold several variants of the context's batch, one after the other; after the last
        layer it has only the positions whose logits are needed.
        """
        for current in range(layer, self.n_layers):
            x = self.step(current, x, context).resid_post
        return x

    def prefix(self, tokens: Int[Tensor, "batch pos"], width: int) -> Past:
        """Return the prefix's keys (rotated) and values per layer, from the cache if there."""
        if width == 0:
            return ()
        if self.prefix_cache is None:
            return self._keys_and_values(tokens[:, :width], ())
        return self.prefix_cache.of(tokens, width, self._keys_and_values)

    def _keys_and_values(self, tokens: Int[Tensor, "batch pos"], past: Past) -> Past:
        """Compute keys and values of the tokens after a cached prefix."""
        first = past[0][0].shape[1] if past else 0
        start = torch.full((len(tokens),), first, device=tokens.device)
        context = Context(torch.zeros_like(start)[:, None], start, past)
        x = self.embed(tokens[:, first:], start)
        found = []
        for layer, block in enumerate(self.attention):
            q, k, v = block.project(x)
            found.append((self.cached_keys(layer, k, context), v))
            if not self.is_last(layer):
                after = x + self.attention_out(layer, self.attend(layer, q, k, v, context))
                x = after + self.mlp[layer](x if self.parallel else after)
        return tuple(found)

    def logits(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Normalise the last residual stream and unembed it, over the whole vocabulary."""
        return self.norm(final) @ self.W_U.T

    def cached_keys(
        self, layer: int, k: Float[Tensor, "batch pos some d_head"], context: Context
    ) -> Float[Tensor, "batch pos some d_head"]:
        """Normalise and rotate projected keys, as the prefix cache stores them."""
        return self._rotated(k, self.attention[layer].k_norm, context, False)

    def _queries_and_keys(
        self, layer: int, q: Tensor, k: Tensor, context: Context, heads: Tensor | slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, keys with the prefix's, one per query head, and the mask."""
        block, last = self.attention[layer], self.is_last(layer)
        copies, width = len(q) // len(context.reads), k.shape[1]
        q = self._rotated(q, block.q_norm, context, last)
        k = self._per_head(self.cached_keys(layer, k, context), q.shape[2])
        if context.past:
            k = _append(self._per_head(context.past[layer][0], self.n_heads)[:, :, heads], k)
        return q, k, context.mask(copies, width, last, q.dtype)

    def _values(
        self, layer: int, n_heads: int, v: Tensor, context: Context, heads: Tensor | slice
    ) -> Tensor:
        v = self._per_head(v, n_heads)
        if context.past:
            v = _append(self._per_head(context.past[layer][1], self.n_heads)[:, :, heads], v)
        return v

    def _rotated(self, x: Tensor, norm: Norm | None, context: Context, reads: bool) -> Tensor:
        """Normalise and rotate queries or keys."""
        if norm is not None:
            x = norm(x)
        if self.rotary is not None:
            x = self.rotary(x, context.positions(x.shape[1], reads))
        return x

    def _per_head(self, x: Tensor, n_heads: int) -> Tensor:
        """Repeat shared heads, so that each of ``n_heads`` has its own."""
        if x.shape[2] == n_heads:
            return x
        return x.repeat_interleave(n_heads // x.shape[2], dim=2)


def _append(past: Tensor, new: Tensor) -> Tensor:
    """Append keys or values to the prefix's, which all variants in the batch share."""
    copies = len(new) // len(past)
    batch = new.unflatten(0, (copies, len(past)))
    return torch.cat([past.expand(copies, *past.shape), batch], dim=2).flatten(0, 1)

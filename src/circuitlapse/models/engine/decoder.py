"""One functional pre-norm decoder that all algorithms run on.

It holds views of a ``transformers`` model's weights, not copies, so that it follows every change of
them, and offers the forward in the pieces that circuit analysis needs: start at any layer, after a
prefix whose keys and values are known, with many variants of one batch side by side, and with the
last layer's queries, MLP and logits computed only where logits are read. A model family is an
adapter that fills in these classes (see :mod:`circuitlapse.models.families`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from circuitlapse.models.engine.context import Context, at_reads
from circuitlapse.models.engine.layers import Attention, Mlp, Norm, Rotary, linear
from circuitlapse.models.engine.prefix_cache import Past, Prefixes
from circuitlapse.shapes import Float, Int


class Step(NamedTuple):
    """What one block computed; differentiable where its input was.

    In the last block only keys and values matter anywhere else than where logits are read, so that
    all from ``z`` to ``resid_post`` has the reads as its ``pos`` axis there.

    Attributes:
        resid_pre: The attention's input, ``[batch, pos, d_model]``.
        q: Queries as projected, before rotation, ``[batch, pos, heads, d_head]``.
        k: Keys, likewise, ``[batch, pos, kv_heads, d_head]``.
        v: Values, likewise.
        z: Attention-weighted values per head, before W_O, ``[batch, pos, heads, d_head]``.
        attn_out: What the attention adds, ``[batch, pos, d_model]``.
        resid_mid: The MLP's input, likewise: in a parallel block that is the attention's, too.
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
    """A pre-norm decoder of blocks that each hold an attention and an MLP.

    Attributes:
        W_E: Token embedding.
        W_pos: Position embedding, where positions are learned.
        rotary: Rotation of queries and keys, where positions are that.
        attention: Of each block.
        mlp: Of each block.
        norm: The last one, before the unembedding.
        W_U: Unembedding, by token.
        n_positions: Longest prompt that the model can run exactly as ``transformers`` does.
        parallel: Whether a block's MLP reads the block's input instead of what its attention adds
            to it.
        prefixes: Where the beginnings of prompts are kept, if they are.
    """

    W_E: Float[Tensor, "vocab d_model"]
    W_pos: Float[Tensor, "positions d_model"] | None
    rotary: Rotary | None
    attention: tuple[Attention, ...]
    mlp: tuple[Mlp, ...]
    norm: Norm
    W_U: Float[Tensor, "vocab d_model"]
    n_positions: int
    parallel: bool = False
    prefixes: Prefixes | None = None

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
        """Whether this is the block whose output is needed only where logits are read."""
        return layer == self.n_layers - 1

    def embed(
        self, tokens: Int[Tensor, "batch pos"], start: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """Embed tokens that stand at positions ``start`` (or 0) onwards in their prompts."""
        embedded, width = self.W_E[tokens], tokens.shape[1]
        if self.W_pos is None:
            return embedded
        if start is None:
            return embedded + self.W_pos[:width]
        positions = start[:, None] + torch.arange(width, device=tokens.device)
        # Padding may reach beyond the last position; what stands there is never read.
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
        """Mix values causally; in the last layer the queries stand where logits are read.

        Args:
            layer: Whose scale and whose past keys and values to use.
            q: Queries as projected; the batch may be several variants of ``context``'s.
            k: Keys as projected of the columns that ``context`` describes, by key-value head or
                one for each of the queries' heads.
            v: Values, likewise.
            context: What lies to the left, and where logits are read.
            heads: Which heads the queries' are.
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
        """Attention weights, of which :meth:`attend` does not keep any; see there.

        The keys are those of the past, as far as it is kept, and then the columns.
        """
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
        """Map the heads' mixed values to what the attention adds to the residual stream."""
        block = self.attention[layer]
        out = linear(z.flatten(0, 1).flatten(1), block.W_O.flatten(0, 1), block.out_bias)
        return out.unflatten(0, z.shape[:2])

    def step(self, layer: int, x: Float[Tensor, "batch pos d_model"], context: Context) -> Step:
        """Run one block; the batch may be several variants of the context's.

        A separate node for the MLP's input lets its gradient be told from that of the stream.
        """
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
        """Run a block whose queries, keys and values are given, projected from ``x`` or not."""
        queries, stream = (self.to_queries(layer, each, context) for each in (q, x))
        z = self.attend(layer, queries, k, v, context)
        added = self.attention_out(layer, z)
        after = stream + added
        mid = (stream if self.parallel else after).view_as(stream)
        out = self.mlp[layer](mid)
        return Step(x, q, k, v, z, added, mid, out, after + out)

    def to_queries(self, layer: int, x: Tensor, context: Context) -> Tensor:
        """Take the columns where a layer's queries stand: all, but in the last layer the reads."""
        return at_reads(x, context) if self.is_last(layer) else x

    def trace(
        self, x: Float[Tensor, "batch pos d_model"], context: Context, layer: int = 0
    ) -> list[Step]:
        """Run all blocks from ``layer`` on, on its input ``x``, and keep what they computed."""
        steps = []
        for current in range(layer, self.n_layers):
            steps.append(self.step(current, x, context))
            x = steps[-1].resid_post
        return steps

    def run(
        self, x: Float[Tensor, "batch pos d_model"], context: Context, layer: int = 0
    ) -> Float[Tensor, "batch reads d_model"]:
        """Run from the input of ``layer`` to the end, keeping nothing.

        Args:
            x: Residual stream before ``layer``; several variants of the context's batch may lie
                one after the other. Behind the last layer its ``pos`` axis is the reads.
            context: What lies to the left, and where logits are read.
            layer: Where to begin.

        Returns:
            The residual stream after the last layer, where logits are read.
        """
        for current in range(layer, self.n_layers):
            x = self.step(current, x, context).resid_post
        return x

    def remember(self, tokens: Int[Tensor, "batch pos"], width: int) -> Past:
        """Compute keys (rotated) and values of the first columns, per layer; none where 0 wide."""
        if width == 0:
            return ()
        if self.prefixes is None:
            return self._keys_and_values(tokens[:, :width], ())
        return self.prefixes.of(tokens, width, self._keys_and_values)

    def _keys_and_values(self, tokens: Int[Tensor, "batch pos"], past: Past) -> Past:
        """Run the columns behind a past for their keys and values."""
        first = past[0][0].shape[1] if past else 0
        start = torch.full((len(tokens),), first, device=tokens.device)
        context = Context(torch.zeros_like(start)[:, None], start, past)
        x = self.embed(tokens[:, first:], start)
        found = []
        for layer, block in enumerate(self.attention):
            q, k, v = block.project(x)
            found.append((self.place_keys(layer, k, context), v))
            if not self.is_last(layer):
                after = x + self.attention_out(layer, self.attend(layer, q, k, v, context))
                x = after + self.mlp[layer](x if self.parallel else after)
        return tuple(found)

    def logits(self, final: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Normalise the last residual stream and unembed it, over the whole vocabulary."""
        return self.norm(final) @ self.W_U.T

    def place_keys(
        self, layer: int, k: Float[Tensor, "batch pos some d_head"], context: Context
    ) -> Float[Tensor, "batch pos some d_head"]:
        """Normalise and rotate keys as projected: what a context's past holds."""
        return self._placed(k, self.attention[layer].k_norm, context, False)

    def _queries_and_keys(
        self, layer: int, q: Tensor, k: Tensor, context: Context, heads: Tensor | slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys in place, the keys with the past's and one per query head; the mask."""
        block, last = self.attention[layer], self.is_last(layer)
        copies, width = len(q) // len(context.reads), k.shape[1]
        q = self._placed(q, block.q_norm, context, last)
        k = self._per_head(self.place_keys(layer, k, context), q.shape[2])
        if context.past:
            k = _after(self._per_head(context.past[layer][0], self.n_heads)[:, :, heads], k)
        return q, k, context.mask(copies, width, last, q.dtype)

    def _values(
        self, layer: int, n_heads: int, v: Tensor, context: Context, heads: Tensor | slice
    ) -> Tensor:
        v = self._per_head(v, n_heads)
        if context.past:
            v = _after(self._per_head(context.past[layer][1], self.n_heads)[:, :, heads], v)
        return v

    def _placed(self, x: Tensor, norm: Norm | None, context: Context, reads: bool) -> Tensor:
        """Normalise and rotate queries or keys."""
        if norm is not None:
            x = norm(x)
        if self.rotary is not None:
            x = self.rotary(x, context.positions(x.shape[1], reads))
        return x

    def _per_head(self, x: Tensor, n_heads: int) -> Tensor:
        """Repeat what heads share, so that each of ``n_heads`` has its own."""
        if x.shape[2] == n_heads:
            return x
        return x.repeat_interleave(n_heads // x.shape[2], dim=2)


def _after(past: Tensor, new: Tensor) -> Tensor:
    """Put new keys or values after the past ones, which all variants in the batch share."""
    copies = len(new) // len(past)
    batch = new.unflatten(0, (copies, len(past)))
    return torch.cat([past.expand(copies, *past.shape), batch], dim=2).flatten(0, 1)

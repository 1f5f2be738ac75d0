"""Partial forward passes of patched variants, from the first layer and position that differ.

A patch changes nothing before its layer and position. So the forward pass restarts at the layer,
from the cached residual stream; earlier positions keep the unpatched keys and values. Few variants
run at once, so that activations fit the processor's cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitlapse.models.engine.batches import max_variants
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.shapes import Bool, Float, Int

_PART_FLOATS = 2**18
_PAST_FLOATS = 32  # of the cached prefix, for each number of a variant


@dataclass(frozen=True)
class PartialForward:
    """Patched runs of a batch's token positions from ``first`` on."""

    decoder: Decoder
    batch: Suffixes
    base: list[Step]  # of the unpatched run, at all positions
    first: int = 0

    @cached_property
    def context(self) -> Context:
        """The context of these positions."""
        return context_from(self.decoder, self.base, self.batch.context, self.first)

    def select(self, layer: int, x: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch _ ..."]:
        """Select these positions of an activation; see :func:`select_from`."""
        return select_from(self.decoder, layer, x, self.first)

    def after_attention(
        self, layer: int, change: Float[Tensor, "variants batch queries d_model"]
    ) -> Float[Tensor, "variants batch"]:
        """Return the metric after adding to the attention output of ``layer``."""
        ours, decoder = self.base[layer], self.decoder
        mid, post = self.select(layer, ours.resid_mid), self.select(layer, ours.resid_post)
        after = []
        for part in change.split(variants_at_once(decoder, self.context, change[0])):
            x = stream_after_attention(decoder, layer, mid, post, part)
            after.append(self._metric_from(layer + 1, x))
        return torch.cat(after)

    def after_mlp(
        self, layer: int, change: Float[Tensor, "variants batch queries d_model"]
    ) -> Float[Tensor, "variants batch"]:
        """Return the metric after adding to the MLP output of ``layer``."""
        return self._metric_from(
            layer + 1, self.select(layer, self.base[layer].resid_post) + change
        )

    def after_input(
        self,
        layer: int,
        pos: Int[Tensor, "some batch"],
        values: Float[Tensor, "slots batch some d_model"],
    ) -> Float[Tensor, "slots some batch"]:
        """Return the metric with a new stream before ``layer`` at one position per prompt.

        Only its query, key and value are recomputed. ``pos`` counts from the batch's first token.
        """
        ours, decoder = self.base[layer], self.decoder
        new = values.movedim(2, 1).flatten(0, 1)
        variants, n = new.shape[:2]
        projected = decoder.attention[layer].project(new.flatten(0, 1)[:, None])
        news = [new, *(part.unflatten(0, (variants, n))[:, :, 0] for part in projected)]
        olds = [part[:, self.first :] for part in (ours.resid_pre, ours.q, ours.k, ours.v)]
        where = pos.repeat(len(values), 1) - self.first
        after = []
        at_once = variants_at_once(decoder, self.context, olds[0])
        for rows in torch.arange(variants, device=new.device).split(at_once):
            x, q, k, v = (
                replace_at(old, where[rows], new[rows]).flatten(0, 1)
                for old, new in zip(olds, news, strict=True)
            )
            x = decoder.finish(layer, x, q, k, v, self.context).resid_post
            after.append(self._metric_from(layer + 1, x.unflatten(0, (len(rows), n))))
        return torch.cat(after).unflatten(0, (len(values), len(pos)))

    def metric(
        self, final: Float[Tensor, "variants batch reads d_model"]
    ) -> Float[Tensor, "variants batch"]:
        """Compute the metric; logits before ``first`` are the unpatched run's."""
        if self.first:
            inside = self.batch.context.reads >= self.first
            final = torch.where(inside[..., None], final, self.base[-1].resid_post)
        metric = self.batch.metric(self.decoder, final.flatten(0, 1))
        return metric.unflatten(0, final.shape[:2])

    def _metric_from(
        self, layer: int, x: Float[Tensor, "variants batch pos d_model"]
    ) -> Float[Tensor, "variants batch"]:
        final = self.decoder.run(x.flatten(0, 1), self.context, layer)
        return self.metric(final.unflatten(0, x.shape[:2]))


def context_from(decoder: Decoder, base: Sequence[Step], context: Context, first: int) -> Context:
    """Context of a run's positions from ``first`` on, with the keys and values before them."""
    if first == 0:
        return context
    past = tuple(
        (decoder.cached_keys(layer, step.k[:, :first], context), step.v[:, :first])
        for layer, step in enumerate(base)
    )
    return context.after(past)


def select_from(
    decoder: Decoder, layer: int, x: Float[Tensor, "batch pos ..."], first: int
) -> Float[Tensor, "batch _ ..."]:
    """Select the positions from ``first`` on of an activation after the attention of ``layer``.

    The last layer has only positions that need logits, and keeps them all.
    """
    return x if decoder.is_last(layer) else x[:, first:]


def partial_forwards(
    decoder: Decoder, batch: Suffixes, base: list[Step], pos: Int[Tensor, "some batch"]
) -> Iterator[tuple[Int[Tensor, " few"], PartialForward]]:
    """Group patches at positions by where they start, as many at once as run well.

    Yields the patches' indices, and the partial forward pass from their first position on.
    """
    firsts = pos.amin(dim=1)
    todo = firsts.argsort(stable=True)
    while len(todo):
        first = int(firsts[todo[0]])
        taken = variants_at_once(decoder, batch.context, batch.clean[:, first:])
        yield todo[:taken], PartialForward(decoder, batch, base, first)
        todo = todo[taken:]


def stream_after_attention(
    decoder: Decoder,
    layer: int,
    mid: Float[Tensor, "*batch d_model"],
    post: Float[Tensor, "*batch d_model"],
    change: Float[Tensor, "variants *batch d_model"],
) -> Float[Tensor, "variants *batch d_model"]:
    """Return the stream after a layer whose attention output changes by ``change``."""
    if decoder.parallel:
        return post + change
    x = mid + change
    return decoder.mlp[layer](x).add_(x)


def changes_anything(
    change: Float[Tensor, "variants batch pos d_model"],
) -> Bool[Tensor, "variants batch"]:
    """Whether a variant changes anything: rounding must not give an effect otherwise."""
    return change.flatten(2).any(dim=-1)


def replace_at(
    old: Float[Tensor, "batch pos ..."],
    pos: Int[Tensor, "variants batch"],
    new: Float[Tensor, "variants batch ..."],
) -> Float[Tensor, "variants batch pos ..."]:
    """Return a copy of ``old`` per variant, with one position of each prompt replaced."""
    variants = old.expand(len(pos), *old.shape).clone()
    variant, row = (torch.arange(n, device=pos.device) for n in pos.shape)
    variants[variant[:, None], row, pos] = new
    return variants


def select_at(
    x: Float[Tensor, "batch pos ..."], pos: Int[Tensor, "some batch"]
) -> Float[Tensor, "some batch ..."]:
    """Return some positions of each prompt."""
    return x[torch.arange(len(x), device=x.device), pos]


def variants_at_once(
    decoder: Decoder, context: Context, one: Float[Tensor, "..."], most: int | None = None
) -> int:
    """How many variants to run at once, given the size of one and the cached prefix."""
    past = 0
    if context.past:  # each layer copies its keys and values for every variant
        past = 2 * decoder.n_heads * context.past[0][0][:, :, 0].numel()
    floats = max(one.numel(), past // _PAST_FLOATS)
    return max_variants(one.device, floats, _PART_FLOATS if most is None else most)


def trace_parts(
    decoder: Decoder,
    x: Float[Tensor, "batch pos d_model"],
    context: Context,
    fields: tuple[str, ...],
) -> tuple[list[Step], Float[Tensor, "batch reads d_model"]]:
    """Run all blocks, keep some activations of each, and return the final stream too."""
    steps, nothing = [], x.new_empty(0)
    for layer in range(decoder.n_layers):
        step = decoder.step(layer, x, context)
        x = step.resid_post
        # Copies, as a view would keep all that it is a view of.
        kept = {name: getattr(step, name).clone() for name in fields}
        steps.append(Step(*(kept.get(name, nothing) for name in Step._fields)))
    return steps, x


def floats_per_token(decoder: Decoder, fields: tuple[str, ...], slots: int) -> int:
    """Memory per token: a trace, parts of another, a prefix, a layer's variants, and one run."""
    return decoder.d_model * ((8 + len(fields) + 2) * decoder.n_layers + 2 * slots + 16)

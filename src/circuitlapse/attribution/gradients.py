"""Gradients at every destination's input, and their products with the sources' differences.

The gradient at a head's query, key or value input is never formed per run: with δ the gradient at
the projection's output, W̃ the projection folded into its normalisation, and x̂, σ of the
normalisation, it is

    ∂L/∂in = (W̃ δ − x̂ (x̂ᵀ W̃ δ) / d_model) / σ,

so δ/σ is summed over the runs in head space, and the rank-one term is kept as x̂ and one number per
slot and run; x̂ᵀ W̃ is the projection's output without its bias. The sources' differences do not
depend on the run, so each layer needs one matrix product.

In half precision, gradients are summed and multiplied in single precision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitlapse.attribution.edge_parts import Parts
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.layers import single
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.shapes import Float


def differences(
    decoder: Decoder, graph: Graph, batch: Suffixes, clean: list[Step], corrupt: list[Step]
) -> tuple[Float[Tensor, "inner batch pos d_model"], Float[Tensor, "writers batch reads d_model"]]:
    """Output differences (corrupt − clean) of the sources.

    Returns those before the last layer's attention at all positions, and all sources at the
    positions that need logits.
    """
    last = graph.n_layers - 1
    n, width, d_model = batch.clean.shape
    inner = batch.clean.new_empty(graph.n_before_attention(last), n, width, d_model)
    reads = batch.context.reads
    end = batch.clean.new_empty(len(graph.writers), *reads.shape, d_model)
    torch.sub(batch.corrupt, batch.clean, out=inner[0])
    for layer in range(graph.n_layers):
        into = inner if layer < last else end
        z = (corrupt[layer].z - clean[layer].z).detach().flatten(0, 1).transpose(0, 1)
        heads = into[graph.head_writers(layer)]
        torch.bmm(z, decoder.attention[layer].W_O, out=heads.flatten(1, 2))
        before, after = clean[layer].mlp_out.detach(), corrupt[layer].mlp_out.detach()
        torch.sub(after, before, out=into[graph.mlp_writer(layer)])
    rows = torch.arange(n, device=inner.device)
    end[: len(inner)] = inner[:, rows[:, None], reads]
    return inner, end


class Gradients:
    """Gradients of −metric at the destinations' inputs, summed over runs of one batch."""

    def __init__(self, decoder: Decoder, batch: Suffixes) -> None:
        """Start without runs."""
        self.decoder, self.batch = decoder, batch
        layers = range(decoder.n_layers)
        self.delta: list[Tensor | None] = [None for _ in layers]
        self.x_hat: list[list[Tensor]] = [[] for _ in layers]
        self.coefficient: list[list[Tensor]] = [[] for _ in layers]
        self.mlp: list[Tensor | None] = [None for _ in layers]
        self.final: Tensor | None = None

    @torch.enable_grad()
    def run(
        self,
        x: Float[Tensor, "batch pos d_model"],
        layer: int = 0,
        others: Sequence[Tensor] = (),
        *,
        with_z: bool = False,
    ) -> tuple[list[Step], list[Tensor]]:
        """Run from the input ``x`` of ``layer``, and add the gradients of the metric.

        Returns the activations, and the gradients at ``others`` and, if asked, at each layer's z.
        """
        steps = self.decoder.trace(x, self.batch.context, layer)
        final = steps[-1].resid_post if steps else x
        wanted = [final, *_inputs(steps), *others, *(step.z for step in steps if with_z)]
        loss = -self.batch.metric(self.decoder, final).sum()
        first, *found = torch.autograd.grad(loss, wanted)
        self.final = _total(self.final, first)
        return steps, self.collect(steps, found)

    @torch.no_grad()
    def collect(self, steps: Sequence[Step], found: Sequence[Tensor]) -> list[Tensor]:
        """Add the gradients at the inputs of the last layers' heads and MLPs; return the others."""
        first = self.decoder.n_layers - len(steps)
        for index, step in enumerate(steps):
            q, k, v, mlp = found[4 * index : 4 * index + 4]
            self._add_slots(first + index, step, (q, k, v))
            self.add_mlp(first + index, mlp)
        return list(found[4 * len(steps) :])

    def add_mlp(self, layer: int, gradient: Float[Tensor, "batch pos d_model"]) -> None:
        """Add a gradient at the input of an MLP."""
        self.mlp[layer] = _total(self.mlp[layer], gradient)

    def _add_slots(self, layer: int, step: Step, slots: tuple[Tensor, Tensor, Tensor]) -> None:
        block, d_model = self.decoder.attention[layer], self.decoder.d_model
        x_hat, inverse = block.norm.standardise(step.resid_pre)
        # [batch, pos, slots, d_head]: all queries, then all keys, then all values.
        delta = single(torch.cat(slots, dim=2)) * inverse[..., None]
        output = single(torch.cat([step.q, step.k, step.v], dim=2)) - block.constants()
        self.x_hat[layer].append(x_hat)
        self.coefficient[layer].append((output * delta).sum(dim=-1) / d_model)
        self.delta[layer] = delta if (total := self.delta[layer]) is None else total.add_(delta)

    @torch.no_grad()
    def scores(
        self,
        graph: Graph,
        inner: Float[Tensor, "inner batch pos d_model"],
        end: Float[Tensor, "writers batch reads d_model"],
        parts: Parts,
    ) -> Float[Tensor, "parts writers readers"]:
        """Multiply the differences of :func:`differences` by these gradients."""
        n_parts = 2 + len(parts.named)
        sums = torch.zeros(n_parts, len(graph.writers), len(graph.readers), dtype=torch.float64)
        for layer in range(graph.n_layers):
            sources = inner[: graph.n_before_attention(layer)]
            if (delta := self.delta[layer]) is not None:
                block = _products(parts, sources, self._at_slots(layer, delta), False)
                sums[:, : len(sources), graph.attention_readers(layer)] = block
            if (gradient := self.mlp[layer]) is not None:
                last = self.decoder.is_last(layer)
                sources = (end if last else inner)[: graph.n_before_mlp(layer)]
                column = _products(parts, sources, gradient[None], last)
                sums[:, : len(sources), graph.mlp_reader(layer), None] = column
        if self.final is not None:
            sums[:, :, -1:] = _products(parts, end, self.final[None], True)
        return parts.with_rest(sums)

    @torch.no_grad()
    def after_layers(self) -> list[Float[Tensor, "batch _ d_model"]]:
        """Sum these gradients over all destinations of each layer's MLP.

        They are at all positions; in the last layer at those that need logits.
        """
        decoder, reads = self.decoder, self.batch.context.reads[..., None]
        total = self.final
        if total is None:
            total = single(self.batch.clean.new_zeros(*reads.shape[:2], decoder.d_model))
        found = [total]
        for layer in reversed(range(1, decoder.n_layers)):
            if (gradient := self.mlp[layer]) is not None:
                total = total + gradient
            if decoder.is_last(layer):
                everywhere = single(torch.zeros_like(self.batch.clean))
                total = everywhere.scatter_add(1, reads.expand_as(total), total)
            if (delta := self.delta[layer]) is not None:
                total = total + self._at_slots(layer, delta).sum(dim=0)
            found.append(total)
        return found[::-1]

    def _at_slots(
        self, layer: int, delta: Float[Tensor, "batch pos slots d_head"]
    ) -> Float[Tensor, "slots batch pos d_model"]:
        """Gradients at the inputs of a layer's queries, keys and values."""
        block, first = self.decoder.attention[layer], 0
        tokens = delta.flatten(0, 1).transpose(0, 1)
        found = delta.new_empty(*tokens.shape[:2], self.decoder.d_model)
        for index in range(3):
            folded = block.norm.folded(block.slot(index)[0]).transpose(1, 2)
            some = slice(first, first + len(folded))
            torch.bmm(tokens[some], folded, out=found[some])
            first = some.stop
        # Subtract the part along each run's x̂.
        for x_hat, coefficient in zip(self.x_hat[layer], self.coefficient[layer], strict=True):
            found.addcmul_(coefficient.flatten(0, 1).T[..., None], x_hat.flatten(0, 1), value=-1)
        return found.unflatten(1, delta.shape[:2])


def _inputs(steps: Sequence[Step]) -> list[Tensor]:
    return [x for step in steps for x in (step.q, step.k, step.v, step.resid_mid)]


def _products(
    parts: Parts,
    sources: Float[Tensor, "some batch pos d_model"],
    gradients: Float[Tensor, "readers batch pos d_model"],
    at_reads: bool,
) -> Float[Tensor, "parts some readers"]:
    ours, theirs = parts.of(sources, at_reads), parts.of(gradients, at_reads)
    products = [single(a).flatten(1) @ b.flatten(1).T for a, b in zip(ours, theirs, strict=True)]
    return torch.stack([product.double().cpu() for product in products])


def _total(total: Tensor | None, new: Tensor) -> Tensor:
    # The first is copied, as gradients of one run may share memory; later ones are added.
    return single(new).clone() if total is None else total.add_(new)

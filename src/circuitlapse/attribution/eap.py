"""Edge attribution patching by gradients: ``eap`` and ``eap-ig-inputs``.

score(u → v) = mean over prompts of Σ over positions of (a_u corrupt − a_u clean) · ∂L/∂in_v, with
L = −metric. EAP (Syed et al. 2023) takes the gradient at the clean run; EAP-IG-inputs (Hanna et al.
2024) takes its mean over m runs whose input embeddings are e_corrupt + (k/m)(e_clean − e_corrupt),
k = 0 … m − 1: the corrupted end is in, the clean end is not.

The differences do not depend on k, so gradients are summed first and each layer needs one matrix
product. The gradient at a head's query, key or value input is never formed per step: with δ the
gradient at the projection's output, W̃ the projection folded into its normalisation, and x̂, σ of
the normalisation, it is

    ∂L/∂in = (W̃ δ − x̂ (x̂ᵀ W̃ δ) / d_model) / σ,

so that δ/σ is summed over the steps in head space, and the rank-one term is kept as x̂ and one
number per slot; x̂ᵀ W̃ is the projection's output without its bias, which is at hand.
"""

from typing import Literal

import torch
from torch import Tensor

from circuitlapse.attribution.scores import Scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.graph import Graph
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.shapes import Float
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs

Method = Literal["eap", "eap-ig-inputs"]


def attribute(
    model: Model,
    pairs: PromptPairs,
    method: Method = "eap-ig-inputs",
    steps: int = 5,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Scores:
    """Score every edge of the model on the pairs.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their metric.
        method: ``eap`` (one gradient) or ``eap-ig-inputs`` (``steps`` gradients, more faithful).
        steps: m of ``eap-ig-inputs``; ``eap`` ignores it.
        metric: What the edges are scored for; see :mod:`circuitlapse.tasks.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget. It does not
            change the result.

    Raises:
        CircuitlapseError: If the method is unknown, or the model cannot run the pairs.
    """
    if method not in ("eap", "eap-ig-inputs"):
        raise CircuitlapseError(
            "there is no such attribution method", got=method, fix="Use eap or eap-ig-inputs"
        )
    if steps < 1:
        raise CircuitlapseError("steps must be at least 1", got=steps)
    decoder, graph = model.decoder, model.graph
    n_writers, n_readers = len(graph.writers), len(graph.readers)
    n_points = steps if method == "eap-ig-inputs" else 1
    floats_per_token = decoder.d_model * (
        n_writers + 3 * graph.n_heads + graph.n_layers * (24 + n_points)
    )
    sums = torch.zeros(2, n_writers, n_readers, dtype=torch.float64)

    def work(batch: Suffixes) -> None:
        sums.add_(_batch_scores(decoder, graph, batch, method, n_points))

    each_batch(
        decoder, pairs, floats_per_token, work,
        metric=metric, batch_size=batch_size, needs_gradient=True,
    )  # fmt: skip
    n = len(pairs)
    counts = torch.tensor([(n + 1) // 2, n // 2])[:, None, None]
    halves = (sums / counts).where(graph.edges | (counts == 0), 0.0)
    mean = (sums.sum(dim=0) / n).where(graph.edges, 0.0)
    return Scores(graph, mean.float(), halves.float(), n)


def _batch_scores(
    decoder: Decoder, graph: Graph, batch: Suffixes, method: Method, n_points: int
) -> Float[Tensor, "2 writers readers"]:
    """Sum of the prompts' scores over the even and over the odd rows of one batch."""
    gradients = _Gradients(decoder, n_points)
    difference = batch.clean - batch.corrupt
    if method == "eap":
        clean = gradients.add(batch, batch.clean)
        with torch.no_grad():
            corrupt = decoder.trace(batch.corrupt, batch.context)
    else:
        with torch.no_grad():
            clean = decoder.trace(batch.clean, batch.context)
        corrupt = gradients.add(batch, batch.corrupt)
        for k in range(1, n_points):
            gradients.add(batch, batch.corrupt + difference * (k / n_points))

    with torch.no_grad():
        inner, end = _differences(decoder, graph, batch, clean, corrupt)
        sums = torch.zeros(2, len(graph.writers), len(graph.readers), dtype=torch.float64)
        n_even = int((batch.rows % 2 == 0).sum())
        halves = (slice(0, n_even), slice(n_even, None))
        for layer in range(graph.n_layers):
            slots = graph.attention_readers(layer)
            sources = inner[: graph.n_before_attention(layer)]
            gradient = gradients.slots(layer)
            x_hat, coefficient = gradients.rank_one(layer)
            for index, half in enumerate(halves):
                ours = sources[:, half]
                linear = _product(ours, gradient[:, half])
                # Per token a small product [writers, d_model] × [d_model, steps].
                seen = torch.einsum("wbtd,btds->wbts", ours, x_hat[half])
                bent = seen.flatten(1) @ coefficient[half].flatten(0, 2)
                sums[index, : len(sources), slots] = (linear - bent).double().cpu()
        for layer in range(graph.n_layers):
            sources = end if decoder.is_last(layer) else inner
            sources = sources[: graph.n_before_mlp(layer)]
            for index, half in enumerate(halves):
                column = _product(sources[:, half], gradients.mlp[layer][None, half])[:, 0]
                sums[index, : len(sources), graph.mlp_reader(layer)] = column.double().cpu()
        for index, half in enumerate(halves):
            column = _product(end[:, half], gradients.final[None, half])[:, 0]
            sums[index, :, -1] = column.double().cpu()
    return sums / n_points


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply [writers, …] and [readers, …] over all further axes."""
    return left.flatten(1) @ right.flatten(1).T


def _differences(
    decoder: Decoder, graph: Graph, batch: Suffixes, clean: list[Step], corrupt: list[Step]
) -> tuple[Float[Tensor, "inner batch pos d_model"], Float[Tensor, "writers batch reads d_model"]]:
    """What corruption adds to each writer's output.

    Returns:
        The writers before the last layer's attention at all positions, and all writers where logits
        are read, which is the only place where the last layer's writers are.
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


class _Gradients:
    """Gradients of −metric at every reader's input, summed over runs."""

    def __init__(self, decoder: Decoder, n_points: int) -> None:
        self.decoder = decoder
        layers = range(decoder.n_layers)
        self.delta: list[Tensor | None] = [None for _ in layers]
        self.x_hat: list[list[Tensor]] = [[] for _ in layers]
        self.coefficient: list[list[Tensor]] = [[] for _ in layers]
        self.mlp: list[Tensor] = []
        self.final = torch.empty(0)

    def add(self, batch: Suffixes, x: Tensor) -> list[Step]:
        """Run forward and backward from embeddings ``x``; return what the forward computed."""
        decoder = self.decoder
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            trace = decoder.trace(x, batch.context)
            final = trace[-1].resid_post
            metric = batch.metric(decoder, final).sum()
            wanted = [final]
            for step in trace:
                wanted += [step.q, step.k, step.v, step.resid_mid]
            first, *others = torch.autograd.grad(-metric, wanted)
        with torch.no_grad():
            self.final = first if len(self.final) == 0 else self.final.add_(first)
            for layer, step in enumerate(trace):
                *delta, mlp = others[4 * layer : 4 * layer + 4]
                self._add_slots(layer, step, delta)
                if len(self.mlp) == layer:
                    self.mlp.append(mlp.clone())
                else:
                    self.mlp[layer] += mlp
        return trace

    def _add_slots(self, layer: int, step: Step, slots: list[Tensor]) -> None:
        block, d_model = self.decoder.attention[layer], self.decoder.d_model
        x_hat, inverse = block.norm.standardise(step.resid_pre)
        # [batch, pos, 3 heads, d_head]: all queries, then all keys, then all values.
        delta = torch.cat(slots, dim=2) * inverse[..., None]
        weight, bias = block.slots()
        if block.norm.bias is not None:
            bias = bias + block.norm.bias @ weight
        output = torch.cat([step.q, step.k, step.v], dim=2) - bias
        self.x_hat[layer].append(x_hat)
        self.coefficient[layer].append((output * delta).sum(dim=-1) / d_model)
        total = self.delta[layer]
        self.delta[layer] = delta if total is None else total.add_(delta)

    def slots(self, layer: int) -> Float[Tensor, "slots batch pos d_model"]:
        """W̃ δ/σ, summed over the runs, at every query, key and value input of a layer."""
        delta = self.delta[layer]
        assert delta is not None
        block = self.decoder.attention[layer]
        folded = block.norm.folded(block.slots()[0]).transpose(1, 2)
        return torch.bmm(delta.flatten(0, 1).transpose(0, 1), folded).unflatten(1, delta.shape[:2])

    def rank_one(
        self, layer: int
    ) -> tuple[Float[Tensor, "batch pos d_model runs"], Float[Tensor, "batch pos runs slots"]]:
        """The part along x̂ of each run, which :meth:`slots` has too much."""
        return (
            torch.stack(self.x_hat[layer], dim=-1),
            torch.stack(self.coefficient[layer], dim=-2),
        )

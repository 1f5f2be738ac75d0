"""Exact edge patching: for every edge a run in which that edge alone is corrupted.

score(u → v) = mean over prompts of (clean metric − metric of the clean run in which v's input has
u's corrupt output instead of its clean one, at all positions). This activation patching of an edge
is the basis of path patching (Wang et al. 2022; Goldowsky-Dill et al. 2023) and ACDC (Conmy et al.
2023), and gradient methods estimate it.

Each run is a partial forward pass from its destination on. All sources of one destination are
variants of one batch. Edges into the logits need no layer.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from circuitlapse.attribution.edge_parts import Parts, Where, with_elsewhere
from circuitlapse.attribution.gradients import differences
from circuitlapse.attribution.scores import Scores
from circuitlapse.graph import SLOTS
from circuitlapse.models.engine.batches import max_variants
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import linear
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.partial_forward import PartialForward, changes_anything, variants_at_once
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float

_PART_FLOATS = 2**20
_MEASURED_PAIRS = 8
_MEASURED_WRITERS = 4


@torch.no_grad()
def exact_scores(
    model: Model,
    pairs: PromptPairs,
    metric: Metric,
    batch_size: int | None,
    names: tuple[str, ...],
    progress: Callable[[int, int], None] | None,
) -> Scores:
    """Patch every edge; see :func:`circuitlapse.attribute`."""
    decoder, graph, n = model.decoder, model.graph, len(pairs)
    shares = with_elsewhere(names)
    sums = torch.zeros(2 + len(shares), *graph.edges.shape, dtype=torch.float64)
    done = 0

    def work(batch: Suffixes) -> None:
        nonlocal done
        runs, parts = EdgeRuns(decoder, graph, batch), Parts(batch, names)
        found, edges = torch.zeros_like(sums), 0
        for reader, per_pair in enumerate(graph.edges.sum(dim=0).tolist()):
            whole, *alone = [runs.effects(reader, where=where) for where in (None, *parts.alone())]
            halves = [whole[:, batch.rows % 2 == half] for half in (0, 1)]
            for part, effects in enumerate((*halves, *alone)):
                found[part, : len(effects), reader] = effects.double().cpu().sum(dim=1)
            edges += per_pair * len(batch.rows)
            if progress:
                progress(done + edges, n * graph.n_edges)
        sums.add_(found)  # only now: a batch that runs out of memory is repeated in halves
        done += edges

    floats = _floats_per_token(decoder, graph)
    each_batch(decoder, pairs, floats, work, metric, batch_size)
    return Scores.from_sums(graph, sums, n, shares)


@torch.no_grad()
def project_exact(model: Model, pairs: PromptPairs, metric: Metric = "logit_diff") -> float:
    """Estimate how many seconds ``attribute(model, pairs, method="exact")`` takes here.

    It times a few edges into the first, middle and last layer on a few of the pairs, and assumes a
    time linear in prompts and layers. The estimate is within about a factor of two, and too long
    for small models. It takes some seconds for GPT-2 small.

    Args:
        metric: See :mod:`circuitlapse.prompts.metrics`.

    Raises:
        CircuitlapseError: If the model cannot run the pairs.
    """
    decoder, graph = model.decoder, model.graph
    last = graph.n_layers - 1
    few = pairs[torch.linspace(0, len(pairs) - 1, min(_MEASURED_PAIRS, len(pairs))).long()]
    layers = sorted({0, last // 2, max(0, last - 1), last})
    spent = torch.zeros(2, len(layers), dtype=torch.float64)

    def work(batch: Suffixes) -> None:
        runs = EdgeRuns(decoder, graph, batch)
        for index, layer in enumerate(layers):
            readers = graph.slot_readers(layer, "k").start, graph.mlp_reader(layer)
            for kind, reader in enumerate(readers):
                spent[kind, index] += _seconds_per_edge(runs, reader)

    each_batch(decoder, few, _floats_per_token(decoder, graph), work, metric=metric)
    return _over_all_edges(graph, layers, spent) * len(pairs) / len(few)


def _seconds_per_edge(runs: "EdgeRuns", reader: int) -> float:
    """Time a few edges into a destination; the first of two times warms up."""
    device = runs.before.device
    most = max_variants(device, 1, _MEASURED_WRITERS)
    n_writers = min(most, int(runs.graph.edges[:, reader].sum()))

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    times = []
    for _ in range(2):
        began = now()
        runs.effects(reader, n_writers)
        times.append(now() - began)
    return min(times) / n_writers


def _over_all_edges(graph: Graph, layers: list[int], seconds: Float[Tensor, "2 measured"]) -> float:
    """Sum over all edges, interpolating the seconds per edge into a head and into an MLP."""
    edges, total = graph.edges.sum(dim=0), 0.0
    every = range(graph.n_layers)
    into_head, into_mlp = (np.interp(every, layers, kind.numpy()) for kind in seconds)
    for layer in every:
        total += into_head[layer] * int(edges[graph.attention_readers(layer)].sum())
        total += into_mlp[layer] * int(edges[graph.mlp_reader(layer)])
    return float(total)


class EdgeRuns:
    """The patched runs of one batch."""

    def __init__(self, decoder: Decoder, graph: Graph, batch: Suffixes) -> None:
        """Run the batch's clean and corrupt prompts."""
        self.decoder, self.graph = decoder, graph
        self.clean = decoder.trace(batch.clean, batch.context)
        corrupt = decoder.trace(batch.corrupt, batch.context)
        # Output differences: before the last layer at all positions, then of all at the reads.
        self.inner, self.end = differences(decoder, graph, batch, self.clean, corrupt)
        self.before = batch.metric(decoder, self.clean[-1].resid_post)
        self.forward = PartialForward(decoder, batch, self.clean)

    def effects(
        self, reader: int, n_writers: int | None = None, where: Where | None = None
    ) -> Float[Tensor, "some batch"]:
        """Patch the edges into one destination, from its first ``n_writers`` sources or all.

        ``where`` limits the patch to some positions.
        """
        graph, last = self.graph, self.graph.n_layers - 1
        layer, slot = divmod(reader, graph.mlp_reader(0) + 1)
        at_end = reader >= graph.mlp_reader(last)
        writers = graph.edges[:, reader].nonzero()[:n_writers, 0]
        sources = (self.end if at_end else self.inner)[: len(writers)]
        at_once = variants_at_once(self.decoder, self.forward.context, sources[0], _PART_FLOATS)
        effects = []
        for some in sources.split(at_once):
            if where is not None:
                some = some * where[at_end][..., None]
            if layer > last:
                change, after = some, self.forward.metric(self.clean[-1].resid_post + some)
            elif reader == graph.mlp_reader(layer):
                ours = self.clean[layer]
                change = self.decoder.mlp[layer](ours.resid_mid + some) - ours.mlp_out
                after = self.forward.after_mlp(layer, change)
            else:
                change = self._attention_change(layer, slot, some)
                after = self.forward.after_attention(layer, change)
            changed = changes_anything(some) & changes_anything(change)
            effects.append((self.before - after).where(changed, 0.0))
        return torch.cat(effects)

    def _attention_change(
        self, layer: int, slot: int, sources: Float[Tensor, "some batch pos d_model"]
    ) -> Float[Tensor, "some batch queries d_model"]:
        """Change of the attention output when one slot's input changes by each of the sources."""
        decoder, graph, ours = self.decoder, self.graph, self.clean[layer]
        block, context, n = decoder.attention[layer], self.forward.context, len(sources)
        index = next(i for i in (2, 1, 0) if slot >= graph.slot_readers(0, SLOTS[i]).start)
        head = slot - graph.slot_readers(0, SLOTS[index]).start
        size = 1 if index == 0 else graph.n_heads // graph.n_kv_heads
        heads = torch.arange(head * size, (head + 1) * size)
        streams = (ours.resid_pre + sources).flatten(0, 1)
        shared = [graph.kv_head(int(heads[0]))]
        queries = decoder.to_queries(layer, ours.q[:, :, heads], context)
        if index == 0:
            streams = decoder.to_queries(layer, streams, context)
        qkv = (queries, ours.k[:, :, shared], ours.v[:, :, shared])
        weight, bias = block.slot(index)
        new = linear(
            block.norm(streams).flatten(0, 1), weight[head], None if bias is None else bias[head]
        )
        q, k, v = (
            new.view(*streams.shape[:2], 1, -1) if each == index else x.repeat(n, 1, 1, 1)
            for each, x in enumerate(qkv)
        )
        z = decoder.attend(layer, q, k, v, context, heads).unflatten(0, (n, -1))
        change = (z - ours.z[:, :, heads]).flatten(3)
        return change @ block.W_O[heads].flatten(0, 1)


def _floats_per_token(decoder: Decoder, graph: Graph) -> int:
    """Memory: two traces, cached keys and values, and all sources' differences."""
    return decoder.d_model * (2 * 13 * graph.n_layers + len(graph.writers) + 16)

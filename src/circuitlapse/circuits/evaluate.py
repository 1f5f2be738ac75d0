"""Running a circuit: its edges carry what it computes, all others the corrupt run's values.

The input of a reader is the corrupt residual stream plus, over the circuit's edges into it, how far
the writers have moved from their corrupt outputs. With the movements of all writers in one matrix,
the inputs of a whole layer are one product with the mask; a reader without an edge keeps its
corrupt value, and readers with the same edges share one input.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from circuitlapse.attribution.scores import By, Scores
from circuitlapse.circuits.faithfulness import CircuitEvaluation
from circuitlapse.config import MIB_FRACTIONS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.context import at_reads
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.graph import SLOTS, Circuit, Graph
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.shapes import Bool, Float
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs


def evaluate_circuit(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    ablation: Literal["corrupt"] = "corrupt",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> CircuitEvaluation:
    """Run a circuit with every edge outside it ablated.

    Args:
        model: From :func:`circuitlapse.load_model`.
        circuit: From ``scores.top(...)`` or a mask of one's own.
        pairs: Clean and corrupt prompts with their metric.
        metric: See :mod:`circuitlapse.tasks.metrics`.
        ablation: What the edges outside carry: ``corrupt``, the corrupt run's value.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Raises:
        CircuitlapseError: If the circuit belongs to another graph, the ablation is unknown, or the
            model cannot run the pairs.
    """
    if ablation != "corrupt":
        raise CircuitlapseError(
            "there is no such ablation", got=ablation, fix="Use ablation='corrupt'"
        )
    return evaluate_circuits(model, [circuit], pairs, metric, batch_size)[0]


def faithfulness_curve(
    model: Model,
    scores: Scores,
    pairs: PromptPairs,
    fractions: Sequence[float] = MIB_FRACTIONS,
    by: By = "absolute",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> list[CircuitEvaluation]:
    """Evaluate the circuits of growing size that one ranking of the edges gives.

    Args:
        model: From :func:`circuitlapse.load_model`.
        scores: From :func:`circuitlapse.attribute`, on the same or other prompts.
        pairs: Clean and corrupt prompts with their metric.
        fractions: Sizes as shares of all edges, before dangling edges are dropped.
        by: How to rank: see :meth:`Scores.top`.
        metric: See :mod:`circuitlapse.tasks.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        One evaluation per fraction, in their order.
    """
    circuits = [scores.top(fraction=fraction, by=by) for fraction in fractions]
    return evaluate_circuits(model, circuits, pairs, metric, batch_size)


@torch.no_grad()
def evaluate_circuits(
    model: Model,
    circuits: Sequence[Circuit],
    pairs: PromptPairs,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> list[CircuitEvaluation]:
    """Evaluate several circuits, as :func:`evaluate_circuit` does, on one pair of plain runs."""
    decoder, graph = model.decoder, model.graph
    for circuit in circuits:
        if circuit.graph != graph:
            raise CircuitlapseError(
                "the circuit belongs to a model of another shape",
                got=f"{circuit.graph} for {graph}",
                fix="Pick the circuit from scores of this model or of one built alike",
            )
    plain = torch.empty(2, len(pairs))
    metrics = torch.empty(len(circuits), len(pairs))
    floats_per_token = decoder.d_model * (
        len(graph.writers) + 12 * graph.n_layers + 6 * graph.n_heads + 16
    )

    def work(batch: Suffixes) -> None:
        clean = decoder.run(batch.clean, batch.context)
        corrupt = decoder.trace(batch.corrupt, batch.context)
        plain[0, batch.rows] = batch.metric(decoder, clean).float().cpu()
        plain[1, batch.rows] = batch.metric(decoder, corrupt[-1].resid_post).float().cpu()
        for index, circuit in enumerate(circuits):
            final = _CircuitRun(decoder, batch, corrupt, circuit).final()
            metrics[index, batch.rows] = batch.metric(decoder, final).float().cpu()

    each_batch(decoder, pairs, floats_per_token, work, metric=metric, batch_size=batch_size)
    return [
        CircuitEvaluation(metric, plain[0], plain[1], circuit.n_edges)
        for metric, circuit in zip(metrics, circuits, strict=True)
    ]


class _CircuitRun:
    """One circuit on one batch: the movements of its writers away from the corrupt run."""

    def __init__(
        self, decoder: Decoder, batch: Suffixes, corrupt: list[Step], circuit: Circuit
    ) -> None:
        self.decoder, self.batch, self.corrupt = decoder, batch, corrupt
        self.graph: Graph = circuit.graph
        device = batch.clean.device
        writers = circuit.mask.any(dim=1)
        self.used = writers
        self.mask: Bool[Tensor, "used readers"] = circuit.mask[writers]
        self.weights = self.mask.to(device=device, dtype=batch.clean.dtype)
        reads, d_model = batch.context.reads.shape, batch.clean.shape[-1]
        self.moved = batch.clean.new_empty(len(self.mask), *batch.clean.shape)
        self.moved_at_reads = batch.clean.new_empty(len(self.mask), *reads, d_model)
        self.filled = 0

    def final(self) -> Float[Tensor, "batch reads d_model"]:
        """Run the circuit; return the last residual stream where logits are read."""
        if self.used[0]:
            self._put((self.batch.clean - self.batch.corrupt)[None], False)
        for layer in range(self.graph.n_layers):
            if self.graph.parallel:
                # The MLP reads what the heads read, but comes after them among the writers.
                mlp = self._mlp_movement(layer)
                self._attention(layer)
            else:
                self._attention(layer)
                mlp = self._mlp_movement(layer)
            if mlp is not None:
                self._put(mlp[None], self.decoder.is_last(layer))
        base = self.corrupt[-1].resid_post
        return self._inputs(base, [len(self.graph.readers) - 1], True)[0]

    def _put(self, moved: Float[Tensor, "some batch pos d_model"], at_reads: bool) -> None:
        """Add the next writers; those of the last layer come only where logits are read."""
        rows = slice(self.filled, self.filled + len(moved))
        if at_reads:
            self.moved_at_reads[rows] = moved
        else:
            self.moved[rows] = moved
            batch = torch.arange(len(self.batch.rows), device=moved.device)
            self.moved_at_reads[rows] = moved[:, batch[:, None], self.batch.context.reads]
        self.filled += len(moved)

    def _inputs(
        self, base: Float[Tensor, "batch pos d_model"], readers: list[int], at_reads: bool
    ) -> Float[Tensor, "some batch pos d_model"]:
        """Return the readers' inputs, given the corrupt residual stream there."""
        moved = self.moved_at_reads if at_reads else self.moved
        weights = self.weights[: self.filled, readers]
        product = weights.T @ moved[: self.filled].flatten(1)
        return product.view(len(readers), *base.shape).add_(base)

    def _attention(self, layer: int) -> None:
        graph, corrupt = self.graph, self.corrupt[layer]
        heads = self.used[graph.head_writers(layer)].nonzero().flatten().tolist()
        if not heads:
            return
        shared = sorted({graph.kv_head(head) for head in heads})
        q = self._projected(layer, 0, heads, corrupt.q)
        k = self._projected(layer, 1, shared, corrupt.k)
        v = self._projected(layer, 2, shared, corrupt.v)
        if shared != heads:
            which = [shared.index(graph.kv_head(head)) for head in heads]
            k, v = k[:, :, which], v[:, :, which]
        chosen = slice(None) if len(heads) == graph.n_heads else torch.tensor(heads)
        z = self.decoder.attend(layer, q, k, v, self.batch.context, chosen)
        change = (z - corrupt.z[:, :, chosen]).flatten(0, 1).transpose(0, 1)
        out = torch.bmm(change, self.decoder.attention[layer].W_O[chosen])
        self._put(out.unflatten(1, z.shape[:2]), self.decoder.is_last(layer))

    def _projected(
        self, layer: int, index: int, heads: list[int], unmoved: Tensor
    ) -> Float[Tensor, "batch pos some d_head"]:
        """Return one of q, k, v of some (key-value) heads, each from its own input."""
        block = self.decoder.attention[layer]
        start = self.graph.slot_readers(layer, SLOTS[index]).start
        base = self.corrupt[layer].resid_pre
        reads = index == 0 and self.decoder.is_last(layer)
        if reads:
            context = self.batch.context
            base, unmoved = at_reads(base, context), at_reads(unmoved, context)
        columns = self.mask[: self.filled, [start + head for head in heads]]
        moved = columns.any(dim=0).nonzero().flatten()
        if len(moved) == 0:
            return unmoved[:, :, heads]
        chosen = torch.tensor(heads)[moved]
        leaders, which = _groups(columns[:, moved])
        readers = [start + int(chosen[leader]) for leader in leaders]
        normed = block.norm(self._inputs(base, readers, reads)).flatten(1, 2)
        all_weights, all_biases = block.slot(index)
        weight = all_weights[chosen]
        if len(leaders) == 1:
            out = normed[0] @ weight.transpose(0, 1).flatten(1)
            out = out.unflatten(1, (len(chosen), -1))
        else:
            each = normed if len(leaders) == len(chosen) else normed[which]
            out = torch.bmm(each, weight).transpose(0, 1)
        if all_biases is not None:
            out = out + all_biases[chosen]
        out = out.unflatten(0, base.shape[:2])
        if len(moved) == len(heads):
            return out
        result = unmoved[:, :, heads]
        result[:, :, moved] = out
        return result

    def _mlp_movement(self, layer: int) -> Float[Tensor, "batch pos d_model"] | None:
        if not self.used[self.graph.mlp_writer(layer)]:
            return None
        corrupt = self.corrupt[layer]
        reader = [self.graph.mlp_reader(layer)]
        mid = self._inputs(corrupt.resid_mid, reader, self.decoder.is_last(layer))[0]
        return self.decoder.mlp[layer](mid) - corrupt.mlp_out


def _groups(columns: Bool[Tensor, "writers readers"]) -> tuple[list[int], list[int]]:
    """Find readers with the same edges: the first of each group, and each reader's group."""
    first: dict[tuple[bool, ...], int] = {}
    which = [first.setdefault(tuple(column), len(first)) for column in columns.T.tolist()]
    return [which.index(group) for group in range(len(first))], which

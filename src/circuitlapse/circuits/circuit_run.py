"""Forward pass of a circuit: its edges carry computed activations, all others ablated ones.

The input of a destination is the ablated residual stream plus, over the circuit's edges into it,
the sources' differences from their ablated outputs. The inputs of a whole layer are one product of
all differences with the mask. A destination without an edge keeps its ablated value.
"""

import torch
from torch import Tensor

from circuitlapse.graph import SLOTS
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.models.engine.context import at_reads
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.shapes import Bool, Float


class CircuitRun:
    """One circuit on one batch.

    Attributes:
        moved: Difference of each used source from its ablated output, ``[used, batch, pos,
            d_model]``, filled in graph order.
        moved_at_reads: The same at the logit positions.
    """

    def __init__(
        self,
        decoder: Decoder,
        batch: Suffixes,
        ablated: list[Step],
        circuit: Circuit,
        room: Float[Tensor, "writers batch pos d_model"] | None = None,
    ) -> None:
        """Prepare, with ``ablated`` from ``ablated_run`` and ``room`` as memory for ``moved``."""
        self.decoder, self.batch, self.ablated = decoder, batch, ablated
        self.graph: Graph = circuit.graph
        device = batch.clean.device
        writers = circuit.mask.any(dim=1)
        self.used = writers
        self.mask: Bool[Tensor, "used readers"] = circuit.mask[writers]
        self.weights = self.mask.to(device=device, dtype=batch.clean.dtype)
        reads, d_model = batch.context.reads.shape, batch.clean.shape[-1]
        if room is None:
            room = batch.clean.new_empty(len(self.mask), *batch.clean.shape)
        self.moved = room[: len(self.mask)]
        self.moved_at_reads = batch.clean.new_empty(len(self.mask), *reads, d_model)
        self.filled = 0

    def final(self) -> Float[Tensor, "batch reads d_model"]:
        """Run the circuit and return the last residual stream at the logit positions."""
        if self.used[0]:
            self._put((self.batch.clean - self.ablated[0].resid_pre)[None], False)
        for layer in range(self.graph.n_layers):
            if self.graph.parallel:
                # The MLP has the input of the heads, but comes after them in the graph's order.
                mlp = self._mlp_movement(layer)
                self._attention(layer)
            else:
                self._attention(layer)
                mlp = self._mlp_movement(layer)
            if mlp is not None:
                self._put(mlp[None], self.decoder.is_last(layer))
        base = self.ablated[-1].resid_post
        return self._inputs(base, [self.graph.logits_reader], True)[:, 0]

    def _put(self, moved: Float[Tensor, "some batch pos d_model"], at_reads: bool) -> None:
        """Add the next sources; the last layer's have only the logit positions."""
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
    ) -> Float[Tensor, "batch some pos d_model"]:
        """Return the destinations' inputs, given the ablated residual stream."""
        moved = self.moved_at_reads if at_reads else self.moved
        weights = self.weights[: self.filled, readers].T.expand(len(base), -1, -1)
        # Prompt by prompt: one product with so few rows would use only one core.
        product = torch.bmm(weights, moved[: self.filled].flatten(2).transpose(0, 1))
        return product.unflatten(2, base.shape[1:]).add_(base[:, None])

    def _attention(self, layer: int) -> None:
        graph, ablated = self.graph, self.ablated[layer]
        heads = self.used[graph.head_writers(layer)].nonzero().flatten().tolist()
        if not heads:
            return
        shared = sorted({graph.kv_head(head) for head in heads})
        starts = [graph.slot_readers(layer, slot).start for slot in SLOTS]
        queries = [starts[0] + head for head in heads]
        others = [start + head for start in starts[1:] for head in shared]
        unmoved, last = ablated.q, self.decoder.is_last(layer)
        if last:
            unmoved = at_reads(unmoved, self.batch.context)
            q = self._projected(layer, 0, heads, unmoved, self._normed(layer, queries, True))
            streams = self._normed(layer, others, False)
        else:
            streams = self._normed(layer, queries + others, False)
            q = self._projected(layer, 0, heads, unmoved, streams)
        k = self._projected(layer, 1, shared, ablated.k, streams)
        v = self._projected(layer, 2, shared, ablated.v, streams)
        if shared != heads:
            which = [shared.index(graph.kv_head(head)) for head in heads]
            k, v = k[:, :, which], v[:, :, which]
        chosen = slice(None) if len(heads) == graph.n_heads else torch.tensor(heads)
        z = self.decoder.attend(layer, q, k, v, self.batch.context, chosen)
        change = (z - ablated.z[:, :, chosen]).flatten(0, 1).transpose(0, 1)
        out = torch.bmm(change, self.decoder.attention[layer].W_O[chosen])
        self._put(out.unflatten(1, z.shape[:2]), last)

    def _normed(
        self, layer: int, readers: list[int], reads: bool
    ) -> tuple[Float[Tensor, "batch different pos d_model"], dict[int, int]]:
        """Normalise the inputs of a layer's slots, once for slots with the same edges.

        The second value maps each destination that has an edge to its input.
        """
        base = self.ablated[layer].resid_pre
        if reads:
            base = at_reads(base, self.batch.context)
        first: dict[tuple[bool, ...], int] = {}
        columns = self.mask[: self.filled, readers].T.tolist()
        edges = dict(zip(readers, map(tuple, columns), strict=True))
        for reader, own in edges.items():
            if any(own):
                first.setdefault(own, reader)
        if not first:
            return base[:, None][:, :0], {}
        number = {own: index for index, own in enumerate(first)}
        which = {reader: number[own] for reader, own in edges.items() if own in number}
        inputs = self._inputs(base, list(first.values()), reads)
        return self.decoder.attention[layer].norm(inputs), which

    def _projected(
        self,
        layer: int,
        index: int,
        heads: list[int],
        unmoved: Float[Tensor, "batch pos every d_head"],
        streams: tuple[Float[Tensor, "batch different pos d_model"], dict[int, int]],
    ) -> Float[Tensor, "batch pos some d_head"]:
        """Return one of q, k, v of some (key-value) heads, each from its own input."""
        start = self.graph.slot_readers(layer, SLOTS[index]).start
        normed, which = streams
        moved = [place for place, head in enumerate(heads) if start + head in which]
        if not moved:
            return unmoved[:, :, heads]
        chosen = [heads[place] for place in moved]
        inputs = [which[start + head] for head in chosen]
        all_weights, all_biases = self.decoder.attention[layer].slot(index)
        weight = _rows(all_weights, chosen)
        if len(set(inputs)) == 1:
            own = normed[:, inputs[0]].flatten(0, 1)
            out = (own @ weight.transpose(0, 1).flatten(1)).unflatten(1, (len(chosen), -1))
        else:
            own = _rows(normed.transpose(0, 1), inputs).flatten(1, 2)
            out = torch.bmm(own, weight).transpose(0, 1)
        if all_biases is not None:
            out = out + all_biases[chosen]
        out = out.unflatten(0, unmoved.shape[:2])
        if len(moved) == len(heads):
            return out
        result = unmoved[:, :, heads]
        result[:, :, moved] = out
        return result

    def _mlp_movement(self, layer: int) -> Float[Tensor, "batch pos d_model"] | None:
        if not self.used[self.graph.mlp_writer(layer)]:
            return None
        ablated = self.ablated[layer]
        reader = [self.graph.mlp_reader(layer)]
        mid = self._inputs(ablated.resid_mid, reader, self.decoder.is_last(layer))[:, 0]
        return self.decoder.mlp[layer](mid) - ablated.mlp_out


def _rows(x: Float[Tensor, "all *shape"], rows: list[int]) -> Float[Tensor, "some *shape"]:
    """Select rows; faster than indexing with a list."""
    if rows == list(range(len(x))):
        return x
    return x.index_select(0, torch.tensor(rows, device=x.device))

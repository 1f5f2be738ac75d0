"""Edge scores, and circuits chosen by them: the top n edges, or a greedy search from the logits.

The greedy search (EAP-IG, MIB; Hanna et al. 2024) starts with the edges into the logits. It adds
the best edge whose destination node is already in, and its source node joins.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.shapes import Bool, Float

By = Literal["signed", "absolute"]
Grow = Literal["topn", "greedy"]


@dataclass(frozen=True, eq=False)
class Scores:
    """A score for every edge, in logits; zero where there is no edge.

    A positive score means that corrupting the edge lowers the metric (MIB's sign).

    Attributes:
        graph: The model's graph.
        mean: Mean over all prompts.
        halves: Means over the even and over the odd rows of the pairs; NaN where there is no such
            row.
        n: Number of prompts.
        by_position: If asked for, the scores at each named position and at all others
            (``elsewhere``). For the gradient methods they add up to ``mean``. For ``exact``, and
            for keys under the QK-fix, each is the effect of corrupting the edge at that position
            alone, without interactions.
    """

    graph: Graph
    mean: Float[Tensor, "writers readers"]
    halves: Float[Tensor, "2 writers readers"]
    n: int
    by_position: Mapping[str, Float[Tensor, "writers readers"]] = field(default_factory=dict)

    @classmethod
    def from_sums(
        cls,
        graph: Graph,
        sums: Float[Tensor, "parts writers readers"],
        n: int,
        names: Sequence[str] = (),
    ) -> "Scores":
        """Average scores summed over the even rows, the odd rows, and all rows at each of
        ``names``.
        """
        counts = torch.tensor([(n + 1) // 2, n // 2])[:, None, None]
        halves = (sums[:2] / counts).where(graph.edges | (counts == 0), 0.0)
        mean = (sums[:2].sum(dim=0) / n).where(graph.edges, 0.0)
        shares = (sums[2:] / n).where(graph.edges, 0.0).float()
        by_position = dict(zip(names, shares, strict=True))
        return cls(graph, mean.float(), halves.float(), n, by_position)

    def top(
        self,
        n_edges: int | None = None,
        *,
        fraction: float | None = None,
        by: By = "absolute",
        grow: Grow = "topn",
    ) -> Circuit:
        """Take the best edges, and prune.

        Args:
            n_edges: How many edges to take, before pruning; all if the graph has fewer.
            fraction: Or the share of all edges (MIB's k), rounded down to whole edges as MIB does.
            by: ``absolute`` takes the largest magnitudes, ``signed`` the largest scores, so that
                edges which lower the metric come last.
            grow: ``topn`` takes the best edges anywhere; ``greedy`` searches from the logits, so
                that every edge has a path to them (Hanna et al. 2024).

        Raises:
            CircuitlapseError: If not exactly one of ``n_edges`` and ``fraction`` is given, it is
                negative, no whole number or no share, or ``by`` or ``grow`` is unknown.
        """
        total = self.graph.n_edges
        if (n_edges is None) == (fraction is None):
            raise CircuitlapseError(
                "give either n_edges or fraction",
                got=f"n_edges={n_edges}, fraction={fraction}",
                fix="For example top(n_edges=200) or top(fraction=0.02)",
            )
        if fraction is not None:
            if not 0 <= fraction <= 1:
                raise CircuitlapseError("fraction must lie between 0 and 1", got=fraction)
            n_edges = int(fraction * total)
        if not isinstance(n_edges, Integral) or n_edges < 0:
            raise CircuitlapseError("n_edges must be a whole number, 0 or larger", got=n_edges)
        n_edges = min(int(n_edges), total)
        if by not in ("signed", "absolute"):
            raise CircuitlapseError(
                "by must be signed or absolute", got=by, fix="MIB's CPR is signed, CMD absolute"
            )
        if grow not in ("topn", "greedy"):
            raise CircuitlapseError("grow must be topn or greedy", got=grow)
        edges = self.graph.edges
        values = self.mean.abs() if by == "absolute" else self.mean
        if grow == "greedy":
            return Circuit(self.graph, greedy_mask(self.graph, values, n_edges))
        order = values[edges].argsort(descending=True, stable=True)
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[order[:n_edges]] = True
        mask = torch.zeros_like(edges)
        mask[edges] = chosen
        return Circuit(self.graph, mask)

    def node_totals(self) -> Float[Tensor, " nodes"]:
        """Sum the scores of the edges out of each head and MLP.

        For the gradient methods this is the node's own attribution. ``exact`` effects of edges
        interact, so their sum is not the node's effect: see :func:`circuitlapse.node_effects`.
        """
        return self.mean[1:].sum(dim=1)

    def to_frame(self) -> pl.DataFrame:
        """List the edges as (source, destination, score), by source in graph order."""
        writers, readers = self.graph.edges.nonzero().unbind(dim=1)
        return pl.DataFrame(
            {
                "writer": [self.graph.writers[index] for index in writers.tolist()],
                "reader": [self.graph.readers[index] for index in readers.tolist()],
                "score": self.mean[writers, readers].tolist(),
            },
            schema={"writer": pl.String, "reader": pl.String, "score": pl.Float64},
        )


def greedy_mask(
    graph: Graph, values: Float[Tensor, "writers readers"], n_edges: int
) -> Bool[Tensor, "writers readers"]:
    """Take ``n_edges`` edges greedily from the logits; of equal ones the earlier in graph order.

    The edges are not pruned: see :class:`Circuit`.
    """
    edges, node_slots = graph.edges, graph.node_slots()
    costs = values.double().neg()
    heap: list[tuple[float, int, int]] = []
    opened: set[int] = set()

    def open_readers(readers: list[int]) -> None:
        """Make the edges into destinations candidates, each shared destination once."""
        for reader in readers:
            if reader not in opened:
                opened.add(reader)
                writers = edges[:, reader].nonzero().flatten()
                column = costs[writers, reader].tolist()
                for cost, writer in zip(column, writers.tolist(), strict=True):
                    heapq.heappush(heap, (cost, writer, reader))

    open_readers([graph.logits_reader])
    joined = {0}  # the input reads nothing
    taken = []
    for _ in range(n_edges):
        _, writer, reader = heapq.heappop(heap)
        taken.append((writer, reader))
        if writer not in joined:
            joined.add(writer)
            open_readers(node_slots[writer - 1].nonzero().flatten().tolist())
    mask = torch.zeros_like(edges)
    if taken:
        writers, readers = torch.tensor(taken).T
        mask[writers, readers] = True
    return mask

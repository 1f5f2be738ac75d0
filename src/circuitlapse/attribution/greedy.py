"""Growing a circuit backwards from the logits, as EAP-IG's code and MIB offer beside the top n.

Starting with the edges into the logits, the best edge whose reader's node is already in is added,
and its writer's node joins, so that nothing is added that leads nowhere (Hanna et al. 2024). Edges
are taken from a heap, which every node fills once, when it joins.
"""

import heapq

import torch
from torch import Tensor

from circuitlapse.models.graph import Graph
from circuitlapse.shapes import Bool, Float


def greedy_mask(
    graph: Graph, values: Float[Tensor, "writers readers"], n_edges: int
) -> Bool[Tensor, "writers readers"]:
    """Take ``n_edges`` edges greedily from the logits down; ties go to the first in graph order.

    Nodes that end up reading nothing are left in, as they would be in the top n: see
    :class:`Circuit`, which drops them.

    Args:
        graph: The whole model's.
        values: How good each edge is.
        n_edges: How many to take, at most all.
    """
    edges, node_slots = graph.edges, graph.node_slots()
    costs = values.double().neg()
    heap: list[tuple[float, int, int]] = []
    opened: set[int] = set()

    def open_readers(readers: list[int]) -> None:
        """Make the edges into readers candidates; heads may share a reader, opened but once."""
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

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
    mask = torch.zeros_like(graph.edges)
    node_slots = graph.node_slots()
    heap: list[tuple[float, int, int]] = []
    opened = torch.zeros(len(graph.readers), dtype=torch.bool)

    def open_readers(readers: Bool[Tensor, " readers"]) -> None:
        """Make the edges into readers candidates; heads may share a reader, opened but once."""
        fresh = readers & ~opened
        opened.logical_or_(fresh)
        edges = (graph.edges & fresh).nonzero()
        better = values[edges[:, 0], edges[:, 1]].double().neg().tolist()
        for cost, (writer, reader) in zip(better, edges.tolist(), strict=True):
            heapq.heappush(heap, (cost, writer, reader))

    logits = torch.zeros_like(opened)
    logits[-1] = True
    open_readers(logits)
    joined = torch.zeros(len(graph.writers), dtype=torch.bool)
    joined[0] = True  # the input reads nothing
    for _ in range(n_edges):
        _, writer, reader = heapq.heappop(heap)
        mask[writer, reader] = True
        if not joined[writer]:
            joined[writer] = True
            open_readers(node_slots[writer - 1])
    return mask

"""The computational graph that attribution scores and circuits are subgraphs of.

A source node (writer) writes to the residual stream. A destination node (reader) reads from it. An
edge is one source's contribution to one destination's input. Names, order and counts are those of
EAP-IG (Hanna et al. 2024) and MIB (Mueller et al. 2025): GPT-2 small has 157 sources, 445
destinations and 32,491 edges. A destination's input is the residual sum before its normalisation.
Heads with shared keys and values (grouped queries) have one ``<k>`` and one ``<v>`` destination. In
a parallel block the MLP does not read its own layer's heads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import GraphShape
from circuitlapse.shapes import Bool


@dataclass(frozen=True)
class Graph(GraphShape):
    """Source nodes, destination nodes and edges of a pre-norm transformer, as tensors.

    Its fields are those of :class:`circuitlapse.graph.GraphShape`.
    """

    @cached_property
    def edges(self) -> Bool[Tensor, "writers readers"]:
        """Which source comes before which destination: the edges of the whole model."""
        return torch.from_numpy(self.edge_mask)

    def node_slots(self) -> Bool[Tensor, "nodes readers"]:
        """The destinations of each node: a head's q, k and v, an MLP's one input."""
        slots = torch.zeros(len(self.nodes), len(self.readers), dtype=torch.bool)
        for layer in range(self.n_layers):
            for head in range(self.n_heads):
                node = self.head_writers(layer).start - 1 + head
                slots[node, self.slot_readers(layer, "q").start + head] = True
                for slot in "kv":
                    slots[node, self.slot_readers(layer, slot).start + self.kv_head(head)] = True
            slots[self.mlp_writer(layer) - 1, self.mlp_reader(layer)] = True
        return slots


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of edges, pruned.

    Pruning removes edges that lie on no path from an input to the logits: edges whose source node
    has no input in the circuit, or whose destination node has no output in it. It repeats until
    nothing changes, as in MIB.

    Attributes:
        graph: The whole model's graph.
        mask: The edges of the circuit, after pruning.
    """

    graph: Graph
    mask: Bool[Tensor, "writers readers"]

    def __post_init__(self) -> None:
        """Check the mask and prune it."""
        edges = self.graph.edges
        if self.mask.shape != edges.shape or self.mask.dtype != torch.bool:
            raise CircuitlapseError(
                f"a circuit's mask must be a boolean tensor of shape {tuple(edges.shape)}",
                got=f"{self.mask.dtype} of shape {tuple(self.mask.shape)}",
                fix="Take the shape from graph.edges: writers by readers",
            )
        mask = self.mask.detach().cpu()
        outside = (mask & ~edges).nonzero()
        if len(outside):
            writer, reader = outside[0].tolist()
            raise CircuitlapseError(
                "a circuit's mask contains a pair of nodes that is no edge",
                got=f"{self.graph.writers[writer]} → {self.graph.readers[reader]}",
                fix="Edges lead from a writer to a later reader: combine with graph.edges",
            )
        object.__setattr__(self, "mask", _pruned(self.graph, mask))

    @property
    def n_edges(self) -> int:
        """Number of edges after pruning."""
        return int(self.mask.sum())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Heads and MLPs of the circuit, in graph order."""
        used = self.mask[1:].any(dim=1)
        return tuple(name for name, is_in in zip(self.graph.nodes, used, strict=True) if is_in)

    def without(self, nodes: Iterable[str]) -> "Circuit":
        """Remove nodes with all their edges, and prune.

        Raises:
            CircuitlapseError: If one is no node of the graph.
        """
        mask = self.mask.clone()
        for node in nodes:
            if node not in self.graph.nodes:
                raise CircuitlapseError(
                    "there is no such node in the graph",
                    got=node,
                    fix="Heads are named like a0.h1 and MLPs like m0, as in graph.nodes",
                )
            # Its incoming edges are pruned: no destination reads from it.
            mask[self.graph.writers.index(node)] = False
        return Circuit(self.graph, mask)

    def edge_names(self) -> list[tuple[str, str]]:
        """List the edges as (source, destination), by source in graph order."""
        return [
            (self.graph.writers[writer], self.graph.readers[reader])
            for writer, reader in self.mask.nonzero().tolist()
        ]


def _pruned(graph: Graph, mask: Tensor) -> Tensor:
    slots = graph.node_slots()
    while True:
        is_read = mask[1:].any(dim=1)
        reads = (slots & mask.any(dim=0)).any(dim=1)
        alive = is_read & reads
        kept = mask.clone()
        kept[1:][~alive] = False
        # The logits belong to no node; shared keys and values stay while one of their heads does.
        dead = slots.any(dim=0) & ~(slots & alive[:, None]).any(dim=0)
        kept[:, dead] = False
        if torch.equal(kept, mask):
            return kept
        mask = kept

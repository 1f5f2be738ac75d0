"""The computational graph that attribution scores and circuits are subgraphs of.

Everything that writes to the residual stream is a writer, everything that reads from it is a
reader, and an edge is one writer's contribution to one reader's input. Names, order and counts are
those of EAP-IG (Hanna et al. 2024) and MIB (Mueller et al. 2025): GPT-2 small has 157 writers, 445
readers and 32,491 edges. A reader's input is the residual sum before its normalisation. Heads that
share their keys and values (grouped queries) share one ``<k>`` and one ``<v>`` reader, and in a
parallel block the MLP does not read its own layer's heads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.nodes import Place, head_name, mlp_name
from circuitlapse.shapes import Bool

SLOTS = ("q", "k", "v")


@dataclass(frozen=True)
class Graph:
    """Writers, readers and edges of a pre-norm transformer.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Attention heads per block.
        n_kv_heads: Heads that have keys and values of their own; 0 means all of them.
        parallel: Whether a block's MLP reads what its attention reads, not what that writes.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int = 0
    parallel: bool = False

    def __post_init__(self) -> None:
        """Give equal graphs equal fields."""
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """``input``, then per layer its heads ``a0.h0`` … and its MLP ``m0``."""
        return ("input", *self.nodes)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Heads and MLPs, layer by layer: the writers without ``input``."""
        return tuple(
            mlp_name(place.layer) if place.head < 0 else head_name(place.layer, place.head)
            for place in self.places
        )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Layer and number in it of each of :attr:`nodes`."""
        heads = (*range(self.n_heads), -1)
        return tuple(Place(layer, head) for layer in range(self.n_layers) for head in heads)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The heads among :attr:`nodes`."""
        return tuple(self.nodes[index] for index in self.head_nodes)

    @cached_property
    def mlps(self) -> tuple[str, ...]:
        """The MLPs among :attr:`nodes`."""
        return tuple(mlp_name(layer) for layer in range(self.n_layers))

    @cached_property
    def head_nodes(self) -> list[int]:
        """Indices of :attr:`heads` among :attr:`nodes`."""
        return [index for index, place in enumerate(self.places) if place.head >= 0]

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Per layer ``a0.h0<q>`` …, all ``<k>``, all ``<v>``, then ``m0``; lastly ``logits``.

        The number in a ``<k>`` or ``<v>`` is that of the key-value head.
        """
        names = []
        for layer in range(self.n_layers):
            for slot in SLOTS:
                names += [head_name(layer, head, slot) for head in range(self.n_slots(slot))]
            names.append(mlp_name(layer))
        return (*names, "logits")

    @cached_property
    def edges(self) -> Bool[Tensor, "writers readers"]:
        """Which writer comes before which reader: the edges of the whole model."""
        mask = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for layer in range(self.n_layers):
            for slot in SLOTS:
                mask[: self.n_before_attention(layer), self.slot_readers(layer, slot)] = True
            mask[: self.n_before_mlp(layer), self.mlp_reader(layer)] = True
        mask[:, -1] = True
        return mask

    @property
    def n_edges(self) -> int:
        """Number of edges of the whole model."""
        return int(self.edges.sum())

    def n_slots(self, slot: str) -> int:
        """How many readers a layer has for queries, keys or values."""
        return self.n_heads if slot == "q" else self.n_kv_heads

    def n_before_attention(self, layer: int) -> int:
        """How many writers the attention of ``layer`` reads: the first so many."""
        return 1 + layer * (self.n_heads + 1)

    def n_before_mlp(self, layer: int) -> int:
        """How many writers the MLP of ``layer`` reads: the first so many."""
        return self.n_before_attention(layer) + (0 if self.parallel else self.n_heads)

    def head_writers(self, layer: int) -> slice:
        """Indices of the heads of ``layer`` among the writers."""
        start = self.n_before_attention(layer)
        return slice(start, start + self.n_heads)

    def mlp_writer(self, layer: int) -> int:
        """Index of the MLP of ``layer`` among the writers."""
        return self.head_writers(layer).stop

    def slot_readers(self, layer: int, slot: str) -> slice:
        """Indices of the ``q``, ``k`` or ``v`` slots of ``layer`` among the readers."""
        start = layer * (self.n_heads + 2 * self.n_kv_heads + 1)
        start += {"q": 0, "k": self.n_heads, "v": self.n_heads + self.n_kv_heads}[slot]
        return slice(start, start + self.n_slots(slot))

    def slot_columns(self, slot: str) -> list[int]:
        """Index among the readers of the ``q``, ``k`` or ``v`` slot of each of :attr:`heads`."""
        return [
            self.slot_readers(layer, slot).start + (head if slot == "q" else self.kv_head(head))
            for layer in range(self.n_layers)
            for head in range(self.n_heads)
        ]

    def attention_readers(self, layer: int) -> slice:
        """Indices of all slots of ``layer`` among the readers."""
        return slice(self.slot_readers(layer, "q").start, self.mlp_reader(layer))

    def mlp_reader(self, layer: int) -> int:
        """Index of the MLP of ``layer`` among the readers."""
        return self.slot_readers(layer, "v").stop

    @property
    def logits_reader(self) -> int:
        """Index of the logits among the readers: the last."""
        return len(self.readers) - 1

    def kv_head(self, head: int) -> int:
        """Which key-value head a head uses."""
        return head // (self.n_heads // self.n_kv_heads)

    def node_slots(self) -> Bool[Tensor, "nodes readers"]:
        """Which readers each node reads by: a head's q, k and v, an MLP's one input."""
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
    """A set of edges, with those that lead nowhere dropped.

    An edge dangles when its writer reads nothing in the circuit or when nothing in the circuit
    reads its reader's node; such edges are dropped until nothing changes, as MIB does.

    Attributes:
        graph: The whole model's graph.
        mask: The edges that are in, after pruning.
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
                "a circuit's mask holds something that is no edge",
                got=f"{self.graph.writers[writer]} → {self.graph.readers[reader]}",
                fix="A writer can only be read by what comes after it; combine with graph.edges",
            )
        object.__setattr__(self, "mask", _pruned(self.graph, mask))

    @property
    def n_edges(self) -> int:
        """Number of edges left after pruning."""
        return int(self.mask.sum())

    @property
    def nodes(self) -> tuple[str, ...]:
        """Heads and MLPs that take part, in graph order."""
        used = self.mask[1:].any(dim=1)
        return tuple(name for name, is_in in zip(self.graph.nodes, used, strict=True) if is_in)

    def without(self, nodes: Iterable[str]) -> "Circuit":
        """Remove nodes with all edges into and out of them, and what then dangles.

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
            # Edges into a node that nothing reads dangle.
            mask[self.graph.writers.index(node)] = False
        return Circuit(self.graph, mask)

    def edge_names(self) -> list[tuple[str, str]]:
        """Name the edges as (writer, reader), by writer in graph order."""
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
        # The logits belong to no node; shared keys and values live while one of their heads does.
        dead = slots.any(dim=0) & ~(slots & alive[:, None]).any(dim=0)
        kept[:, dead] = False
        if torch.equal(kept, mask):
            return kept
        mask = kept

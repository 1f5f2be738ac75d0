"""The computational graph that attribution scores and circuits are subgraphs of.

Everything that writes to the residual stream is a writer, everything that reads from it is a
reader, and an edge is one writer's contribution to one reader's input. Names, order and counts are
those of EAP-IG (Hanna et al. 2024) and MIB (Mueller et al. 2025): GPT-2 small has 157 writers, 445
readers and 32,491 edges. A reader's input is the residual sum before its normalisation.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Bool

SLOTS = ("q", "k", "v")


@dataclass(frozen=True)
class Graph:
    """Writers, readers and edges of a sequential pre-norm transformer.

    Attributes:
        n_layers: Number of blocks.
        n_heads: Attention heads per block.
    """

    n_layers: int
    n_heads: int

    @cached_property
    def writers(self) -> tuple[str, ...]:
        """``input``, then per layer its heads ``a0.h0`` … and its MLP ``m0``."""
        return ("input", *self.nodes)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Heads and MLPs, layer by layer: the writers without ``input``."""
        names = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return tuple(names)

    @cached_property
    def readers(self) -> tuple[str, ...]:
        """Per layer ``a0.h0<q>`` …, all ``<k>``, all ``<v>``, then ``m0``; lastly ``logits``."""
        names = []
        for layer in range(self.n_layers):
            for slot in SLOTS:
                names += [f"a{layer}.h{head}<{slot}>" for head in range(self.n_heads)]
            names.append(f"m{layer}")
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

    def n_before_attention(self, layer: int) -> int:
        """How many writers the attention of ``layer`` reads: the first so many."""
        return 1 + layer * (self.n_heads + 1)

    def n_before_mlp(self, layer: int) -> int:
        """How many writers the MLP of ``layer`` reads: the first so many."""
        return self.n_before_attention(layer) + self.n_heads

    def head_writers(self, layer: int) -> slice:
        """Indices of the heads of ``layer`` among the writers."""
        return slice(self.n_before_attention(layer), self.n_before_mlp(layer))

    def mlp_writer(self, layer: int) -> int:
        """Index of the MLP of ``layer`` among the writers."""
        return self.n_before_mlp(layer)

    def slot_readers(self, layer: int, slot: str) -> slice:
        """Indices of the ``q``, ``k`` or ``v`` slots of ``layer`` among the readers."""
        start = layer * (3 * self.n_heads + 1) + SLOTS.index(slot) * self.n_heads
        return slice(start, start + self.n_heads)

    def mlp_reader(self, layer: int) -> int:
        """Index of the MLP of ``layer`` among the readers."""
        return layer * (3 * self.n_heads + 1) + 3 * self.n_heads

    def node_slots(self) -> Bool[Tensor, "nodes readers"]:
        """Which readers belong to which node: a head's q, k and v, an MLP's one input."""
        owners = [name.partition("<")[0] for name in self.readers]
        return torch.tensor([[owner == node for owner in owners] for node in self.nodes])


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
        kept[:, (slots & ~alive[:, None]).any(dim=0)] = False
        if torch.equal(kept, mask):
            return kept
        mask = kept

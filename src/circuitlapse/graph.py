"""Names of nodes and edges, as in MIB (Mueller et al. 2025): ``a3.h5``, ``a3.h5<q>``, ``m3``.

Tables and pages use them too, so this module imports no torch.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from circuitlapse.shapes import Bool

_NAME = re.compile(r"a(?P<layer>\d+)\.h(?P<head>\d+)(<(?P<slot>[qkv])>)?|m(?P<mlp>\d+)")


class Place(NamedTuple):
    """Where a node is."""

    layer: int
    head: int = -1  # −1 for an MLP
    slot: str = ""  # q, k or v for a head's input


def head_name(layer: int, head: int, slot: str = "") -> str:
    """Name a head, or one of its inputs: ``a3.h5``, ``a3.h5<q>``."""
    return f"a{layer}.h{head}" + (f"<{slot}>" if slot else "")


def mlp_name(layer: int) -> str:
    """Name an MLP: ``m3``."""
    return f"m{layer}"


def place_of(name: str) -> Place | None:
    """Parse a name; None for ``input``, ``logits`` or an invalid name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    if found["mlp"]:
        return Place(int(found["mlp"]))
    return Place(int(found["layer"]), int(found["head"]), found["slot"] or "")


def head_of(name: str) -> Place | None:
    """Parse the name of a head or of one of its slots; None for anything else."""
    place = place_of(name)
    return None if place is None or place.head < 0 else place


SLOTS = ("q", "k", "v")


@dataclass(frozen=True)
class GraphShape:
    """Source nodes (writers), destination nodes (readers) and edges of a pre-norm transformer."""

    n_layers: int
    n_heads: int
    n_kv_heads: int = 0  # key-value heads per block; 0 means one per head
    parallel: bool = False  # whether MLPs read the block's input, without the attention's output

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
        """The place of each of :attr:`nodes`."""
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
    def edge_mask(self) -> Bool[np.ndarray, "writers readers"]:
        """Which source comes before which destination: the edges of the whole model."""
        mask = np.zeros((len(self.writers), len(self.readers)), dtype=bool)
        for layer in range(self.n_layers):
            for slot in SLOTS:
                mask[: self.n_before_attention(layer), self.slot_readers(layer, slot)] = True
            mask[: self.n_before_mlp(layer), self.mlp_reader(layer)] = True
        mask[:, -1] = True
        return mask

    @property
    def n_edges(self) -> int:
        """Number of edges of the whole model."""
        return int(self.edge_mask.sum())

    def n_slots(self, slot: str) -> int:
        """Number of query, key or value destinations of a layer."""
        return self.n_heads if slot == "q" else self.n_kv_heads

    def n_before_attention(self, layer: int) -> int:
        """Number of sources that the attention of ``layer`` reads; they come first."""
        return 1 + layer * (self.n_heads + 1)

    def n_before_mlp(self, layer: int) -> int:
        """Number of sources that the MLP of ``layer`` reads; they come first."""
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


StreamSite = Literal["resid_pre", "attn_out", "mlp_out"]
HeadSite = Literal["head_out", "head_q", "head_k", "head_v", "head_pattern"]
Site = StreamSite | HeadSite

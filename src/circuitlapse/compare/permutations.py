"""The null of every overlap: what it would be if heads of a layer carried each other's labels.

Two importance vectors look alike as soon as both put their weight into the same layers and MLPs.
Shuffling head labels within each layer keeps that and destroys only *which* head does what, so
what is left of the overlap is what the layers alone explain. A head is one thing with four slots
(it writes, and reads through q, k and v), so one permutation moves all four together.

Names are the graph's (MIB benchmark, Mueller et al. 2025): ``a3.h5``, ``a3.h5<q>``, ``m3``.
"""

from collections.abc import Sequence

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.nodes import head_name, head_of
from circuitlapse.shapes import Bool, Int


def draw_permutations(
    n_layers: int, n_heads: int, repeats: int, seed: int | Sequence[int]
) -> Int[np.ndarray, "repeats layers heads"]:
    """Draw an independent uniform permutation of the heads for every layer and repeat."""
    heads = np.broadcast_to(np.arange(n_heads), (repeats, n_layers, n_heads))
    return np.random.default_rng(seed).permuted(heads, axis=2)


def relabel(
    names: Sequence[str], permutations: Int[np.ndarray, "repeats layers heads"]
) -> Int[np.ndarray, "repeats names"]:
    """Where each name's value comes from once the heads are relabelled.

    Args:
        names: Nodes, writers or reader slots, in the order of the array to permute.
        permutations: From :func:`draw_permutations`; the same ones for all slots of a head.

    Returns:
        Indices into ``names``: ``values[relabel(names, p)[r]]`` holds at slot ``a{l}.h{i}<s>`` what
        ``a{l}.h{p[r, l, i]}<s>`` held. Everything that is not a head stays. Key-value heads that
        several heads share are shuffled among themselves.

    Raises:
        CircuitlapseError: If a layer's heads are not all there.
    """
    index = {name: i for i, name in enumerate(names)}
    _, n_layers, n_heads = permutations.shape
    result = np.tile(np.arange(len(names)), (len(permutations), 1))
    for i, name in enumerate(names):
        if (place := head_of(name)) is None:
            continue
        layer, head, slot = place
        every = [head_name(layer, peer, slot) for peer in range(n_heads)]
        peers = [index[peer] for peer in every if peer in index]
        if layer >= n_layers or head >= len(peers) or n_heads % len(peers):
            raise CircuitlapseError(
                "heads can be shuffled within a layer only if each has every slot",
                got=f"{name!r} among {n_layers} layers of {n_heads} heads",
                fix="Pass all nodes of the graph",
            )
        # Keys and values that heads share are fewer: the ranks of the first labels permute them.
        ranks = permutations[:, layer, : len(peers)].argsort(axis=1).argsort(axis=1)
        result[:, i] = np.asarray(peers)[ranks[:, head]]
    return result


class EdgeSources:
    """Where each edge's score comes from when heads are relabelled, one block at a time.

    Indexed by a slice of the repeats, it gives ``[repeats, edges]`` like :func:`relabel` does for
    nodes. All blocks at once would take a gigabyte on larger models.
    """

    def __init__(
        self,
        edges: Bool[np.ndarray, "writers readers"],
        writers: Int[np.ndarray, "repeats writers"],
        readers: Int[np.ndarray, "repeats readers"],
    ) -> None:
        """Take the mask of edges and the relabelling of its rows and columns."""
        self._writer, self._reader = np.nonzero(edges)
        self._number = np.full(edges.shape, -1)
        self._number[edges] = np.arange(len(self._writer))
        self._writers, self._readers = writers, readers
        self.shape = (len(writers), len(self._writer))

    def __getitem__(self, block: slice) -> Int[np.ndarray, "repeats edges"]:
        """Return the indices of one block of repeats."""
        sources = self._number[
            self._writers[block][:, self._writer], self._readers[block][:, self._reader]
        ]
        if (sources < 0).any():
            raise CircuitlapseError(
                "heads of one layer must have the same edges to be shuffled",
                fix="Pass the mask of the whole graph",
            )
        return sources

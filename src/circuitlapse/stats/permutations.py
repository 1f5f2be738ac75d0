"""The null of every overlap: what it would be if heads of a layer carried each other's labels.

Two importance vectors look alike as soon as both put their weight into the same layers and MLPs.
Shuffling head labels within each layer keeps that and destroys only *which* head does what, so
what is left of the overlap is what the layers alone explain.

Names are the graph's (MIB benchmark, Mueller et al. 2025): ``a3.h5``, ``m3``.
"""

from collections.abc import Sequence

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.shapes import Int


def shuffle_heads(
    nodes: Sequence[str], repeats: int, seed: int | Sequence[int]
) -> Int[np.ndarray, "repeats nodes"]:
    """Draw for every repeat which node's value each node gets when heads are relabelled.

    Args:
        nodes: All nodes of a graph, in the order of the array to permute.
        repeats: Independent uniform permutations of the heads of every layer.
        seed: Fixes them.

    Returns:
        Indices into ``nodes``; everything that is not a head stays where it is.

    Raises:
        CircuitlapseError: If the layers do not have all their heads.
    """
    columns = {place: i for i, name in enumerate(nodes) if (place := head_of(name)) is not None}
    result = np.tile(np.arange(len(nodes)), (repeats, 1))
    if not columns:
        return result
    n_layers = 1 + max(place.layer for place in columns)
    n_heads = 1 + max(place.head for place in columns)
    if len(columns) != n_layers * n_heads:
        raise CircuitlapseError(
            "heads can be shuffled only where every layer has all of them",
            got=f"{len(columns)} heads in {n_layers} layers of {n_heads}",
            fix="Pass all nodes of the graph",
        )
    heads = np.array([columns[place] for place in sorted(columns)])
    drawn = np.broadcast_to(heads.reshape(n_layers, n_heads), (repeats, n_layers, n_heads))
    result[:, heads] = np.random.default_rng(seed).permuted(drawn, axis=2).reshape(repeats, -1)
    return result

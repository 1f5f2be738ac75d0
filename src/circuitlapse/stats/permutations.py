"""The permutation null of overlaps: head labels shuffled within each layer.

Two importance vectors are similar as soon as both have their weight in the same layers and MLPs.
The shuffle keeps that and destroys only *which* head of a layer has which effect.
"""

from collections.abc import Sequence

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.shapes import Int


def shuffle_heads(
    nodes: Sequence[str], repeats: int, seed: int | Sequence[int]
) -> Int[np.ndarray, "repeats nodes"]:
    """Draw indices into ``nodes`` that permute the heads of every layer; others stay in place.

    Raises:
        CircuitlapseError: If a layer lacks some of its heads.
    """
    columns = {place: i for i, name in enumerate(nodes) if (place := head_of(name)) is not None}
    result = np.tile(np.arange(len(nodes)), (repeats, 1))
    if not columns:
        return result
    n_layers = 1 + max(place.layer for place in columns)
    n_heads = 1 + max(place.head for place in columns)
    if len(columns) != n_layers * n_heads:
        raise CircuitlapseError(
            "heads can be shuffled only if every layer has all of them",
            got=f"{len(columns)} heads in {n_layers} layers of {n_heads}",
            fix="Pass all nodes of the graph",
        )
    heads = np.array([columns[place] for place in sorted(columns)])
    drawn = np.broadcast_to(heads.reshape(n_layers, n_heads), (repeats, n_layers, n_heads))
    result[:, heads] = np.random.default_rng(seed).permuted(drawn, axis=2).reshape(repeats, -1)
    return result

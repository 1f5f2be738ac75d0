"""Random groups of heads that share no head with the group they are compared with.

A large group has a large effect, whatever its heads do (Shi et al. 2024). A group that shares heads
with the tested one has part of its effect, so it says little about chance.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import GraphShape, head_name, head_of
from circuitlapse.shapes import Bool

GROUPS = 19
"""One of twenty with the tested one: a chance of .05 to be the largest."""

_TRIES = 50  # for each group, until only groups that were drawn before can be left


@dataclass(frozen=True)
class Compared:
    """Some heads, and the random groups to compare them with."""

    heads: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()

    @property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """The heads themselves, then the groups."""
        return (self.heads, *self.groups)


def compared(
    graph: GraphShape,
    heads: Collection[str],
    apart_from: Collection[str] = (),
    n: int = GROUPS,
    seed: int = 0,
) -> Compared:
    """Draw ``n`` different groups with as many heads in every layer as ``heads``.

    Their heads are neither among these nor in ``apart_from``. Where a layer has too few, the rest
    comes from the nearest layers that have some. There are fewer groups where fewer exist.

    Raises:
        CircuitlapseError: If the graph has no such head.
    """
    own = head_mask(graph, heads)
    free = ~(own | head_mask(graph, apart_from))
    rng, found = np.random.default_rng(seed), dict[tuple[str, ...], None]()
    possible = 0 < own.sum() <= free.sum()
    for _ in range(_TRIES * n if possible else 0):
        found[_drawn(own.sum(axis=1), free, rng)] = None
        if len(found) == n:
            break
    ordered = tuple(head for head in graph.heads if head in heads)
    return Compared(ordered, tuple(found))


def head_mask(graph: GraphShape, heads: Collection[str]) -> Bool[np.ndarray, "layers heads"]:
    """Which heads of a model are in a group.

    Raises:
        CircuitlapseError: If the model has no such head.
    """
    mask = np.zeros((graph.n_layers, graph.n_heads), dtype=bool)
    for name in heads:
        place = head_of(name)
        if place is None or name not in graph.nodes:
            raise CircuitlapseError(
                "the model has no such head",
                got=name,
                fix="Name heads like a0.h3: layer and head count from 0",
            )
        mask[place.layer, place.head] = True
    return mask


def _drawn(sizes: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw one group: from the layers themselves, and what is missing from the nearest layers."""
    left, taken = free.copy(), np.zeros_like(free)
    missing = []
    for layer, size in enumerate(sizes.tolist()):
        n = min(size, int(left[layer].sum()))
        taken[layer, rng.choice(np.flatnonzero(left[layer]), n, replace=False)] = True
        missing += [layer] * (size - n)
    left &= ~taken
    for layer in missing:
        distance = np.abs(np.arange(len(left)) - layer)
        nearest = distance[left.any(axis=1)].min()
        places = np.argwhere(left & (distance == nearest)[:, None])
        where = tuple(places[rng.integers(len(places))])
        taken[where], left[where] = True, False
    return tuple(head_name(int(layer), int(head)) for layer, head in np.argwhere(taken))

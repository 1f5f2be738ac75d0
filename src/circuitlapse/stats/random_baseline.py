"""Random baseline of a group of heads: random groups with as many heads in every layer.

A large group has a large effect, whatever its heads do (Shi et al. 2024). If there are too few
groups with as many heads in every layer for a small p-value, heads are drawn from all layers.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import GraphShape, head_of
from circuitlapse.shapes import Bool

RANDOM_GROUPS = 20
"""Enough for a one-sided p below .05: 1 in 21."""

FEWEST_GROUPS = 19
"""With fewer, no group's p can be .05 or less."""


def matched_heads(
    graph: GraphShape, heads: Collection[str], n: int = RANDOM_GROUPS, seed: int = 0
) -> list[tuple[str, ...]]:
    """Draw ``n`` different groups with as many heads in every layer as a given one.

    The given group is not drawn, but others may share heads with it, so that it is exchangeable
    with them in the test of :func:`compare_to_random`. With fewer than :data:`FEWEST_GROUPS` of
    that kind, the heads come from any layer. Returns all groups if there are fewer than ``n``, and
    none if the group has no heads or all heads of the model.

    Raises:
        CircuitlapseError: If the graph has no such head.
    """
    own = [tuple(np.flatnonzero(layer).tolist()) for layer in head_mask(graph, heads)]
    sizes, width = [len(layer) for layer in own], graph.n_heads
    if prod(comb(width, size) for size in sizes) - 1 < min(n, FEWEST_GROUPS):
        # As if one layer had all heads.
        own = [tuple(layer * width + head for layer, row in enumerate(own) for head in row)]
        sizes, width = [len(own[0])], graph.n_layers * graph.n_heads
    itself = tuple(own)
    if prod(comb(width, size) for size in sizes) - 1 <= n:
        groups = product(*(combinations(range(width), size) for size in sizes))
        return [_names(graph, group) for group in groups if group != itself]
    rng = np.random.default_rng(seed)
    found: dict[tuple[tuple[int, ...], ...], None] = {}
    while len(found) < n:
        group = tuple(
            tuple(sorted(rng.choice(width, size, replace=False).tolist())) for size in sizes
        )
        if group != itself:
            found[group] = None
    return [_names(graph, group) for group in found]


def _names(graph: GraphShape, group: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Name the heads, numbered within their layers or, in a single row, over all layers."""
    return tuple(
        f"a{layer + head // graph.n_heads}.h{head % graph.n_heads}"
        for layer, row in enumerate(group)
        for head in row
    )


@dataclass(frozen=True)
class RandomBaseline:
    """Values of ``n`` size-matched random groups: mean, smallest and largest.

    ``p_value`` is the share of these groups and the tested one that reach the tested one's value.
    """

    n: int
    mean: float
    low: float
    high: float
    p_value: float


def compare_to_random(value: float, random: Sequence[float]) -> RandomBaseline | None:
    """Compare a group's value with those of random groups; None without any."""
    if not len(random):
        return None
    drawn = np.asarray(random, dtype=np.float64)
    reached = int((drawn >= value).sum())
    ends = float(drawn.min()), float(drawn.max())
    return RandomBaseline(len(drawn), float(drawn.mean()), *ends, (reached + 1) / (len(drawn) + 1))


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

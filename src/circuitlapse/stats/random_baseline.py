"""Random groups of heads of the same size, layer by layer: the null distribution.

A large group carries much of anything. What a group carries is compared with groups
that have as many heads in every layer and were drawn at random. Where there are too few of these to
ever tell (one head has as many peers as its layer has other heads), groups of as many heads from
any layers stand in their place.
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
"""With fewer, no group's p can be .05 or less, whatever it carries."""


def matched_heads(
    graph: GraphShape, heads: Collection[str], n: int = RANDOM_GROUPS, seed: int = 0
) -> list[tuple[str, ...]]:
    """Draw different groups with as many heads in every layer as a given one, and none of them it.

    They may share heads with it: among all groups of that make-up it is then one like any other,
    which is what the p-value of :func:`compared_with` asks, and groups exist however large it is.
    With fewer than :data:`FEWEST_GROUPS` of that make-up, the heads may come from any layer.

    Args:
        graph: The model's graph.
        heads: The group, by names such as ``a0.h3``.
        n: How many to draw; all there are where there are fewer.
        seed: Draws other groups.

    Returns:
        Groups in graph order; none where the group holds all heads of the model, or no heads.

    Raises:
        CircuitlapseError: If the graph has no such head.
    """
    own = [tuple(np.flatnonzero(layer).tolist()) for layer in head_mask(graph, heads)]
    sizes, width = [len(layer) for layer in own], graph.n_heads
    if prod(comb(width, size) for size in sizes) - 1 < min(n, FEWEST_GROUPS):
        # One layer that holds all heads, numbered through.
        own = [tuple(layer * width + head for layer, row in enumerate(own) for head in row)]
        sizes, width = [len(own[0])], graph.n_layers * graph.n_heads
    itself = tuple(own)
    if prod(comb(width, size) for size in sizes) - 1 <= n:
        ways = product(*(combinations(range(width), size) for size in sizes))
        return [_names(graph, group) for group in ways if group != itself]
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
    """Name the heads, numbered within their layers or, in a single row, through all of them."""
    return tuple(
        f"a{layer + head // graph.n_heads}.h{head % graph.n_heads}"
        for layer, row in enumerate(group)
        for head in row
    )


@dataclass(frozen=True)
class RandomBaseline:
    """What size-matched random groups reach, compared with one group.

    Attributes:
        n: How many groups.
        mean: Their mean.
        low: Their smallest value.
        high: Their largest value.
        p_value: Share of all these groups, the one itself among them, that reach its value.
    """

    n: int
    mean: float
    low: float
    high: float
    p_value: float


def compare_to_random(value: float, random: Sequence[float]) -> RandomBaseline | None:
    """Compare a group's value with the random groups'; None where there are none."""
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

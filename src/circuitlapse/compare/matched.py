"""Random groups of heads of the same size, layer by layer: the null beside every group of heads.

A large group carries much of anything. What a group carries means something only beside groups
that have as many heads in every layer and were drawn at random.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb, prod

import numpy as np

from circuitlapse.compare.replaced import head_mask
from circuitlapse.models.graph import Graph

RANDOM_GROUPS = 20
"""Fewest that a one-sided p of .05 can be reached with: 1 in 21."""


def matched_heads(
    graph: Graph, heads: Collection[str], n: int = RANDOM_GROUPS, seed: int = 0
) -> list[tuple[str, ...]]:
    """Draw different groups with as many heads in every layer as a given one, and none of them it.

    They may share heads with it: among all groups of that make-up it is then one like any other,
    which is what the p-value of :func:`beside` asks, and groups exist however large it is.

    Args:
        graph: The model's graph.
        heads: The group, by names such as ``a0.h3``.
        n: How many to draw; all there are where there are fewer.
        seed: Draws other groups.

    Returns:
        Groups in graph order; none where the group holds all heads of its layers, or no heads.

    Raises:
        CircuitlapseError: If the graph has no such head.
    """
    mask = head_mask(graph, heads)
    own = tuple(tuple(layer.nonzero()[:, 0].tolist()) for layer in mask)
    available = prod(comb(graph.n_heads, len(layer)) for layer in own) - 1
    if available <= n:
        ways = [combinations(range(graph.n_heads), len(layer)) for layer in own]
        return [_names(group) for group in product(*ways) if group != own]
    rng = np.random.default_rng(seed)
    found: dict[tuple[tuple[int, ...], ...], None] = {}
    while len(found) < n:
        group = tuple(
            tuple(sorted(rng.choice(graph.n_heads, len(layer), replace=False).tolist()))
            for layer in own
        )
        if group != own:
            found[group] = None
    return [_names(group) for group in found]


def _names(group: Sequence[Sequence[int]]) -> tuple[str, ...]:
    return tuple(f"a{layer}.h{head}" for layer, heads in enumerate(group) for head in heads)


@dataclass(frozen=True)
class Beside:
    """What size-matched random groups reach, beside one group.

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


def beside(value: float, random: Sequence[float]) -> Beside | None:
    """Compare a group's value with the random groups'; None where there are none."""
    if not len(random):
        return None
    drawn = np.asarray(random, dtype=np.float64)
    reached = int((drawn >= value).sum())
    ends = float(drawn.min()), float(drawn.max())
    return Beside(len(drawn), float(drawn.mean()), *ends, (reached + 1) / (len(drawn) + 1))

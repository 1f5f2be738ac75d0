"""Heads whose roles changed, and roles that moved from one head to another.

The distance of two profiles is Euclidean: all features lie between 0 and 1. A head's role *changed*
if the distance of its profile from the base's exceeds both a minimum and the noise: the largest
distance between two halves of the base's prompts, and between the base and each placebo.

A role *moved* from head i to head j if both changed, and j's profile came nearer to i's profile in
the base: the approach d(base i, base j) - d(base i, tuned j) is positive. Heads that changed are
matched one to one so that the sum of approaches is largest (linear assignment); i and j differ.
Some changed head always comes nearer to another one, so the sum is compared with a null: the same
matching, with i from as many random heads. A small p says that roles moved away from heads that
changed; there is one p for all moves together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_profiles import HeadProfiles
from circuitlapse.heads.thresholds import SMALLEST_ROLE_CHANGE
from circuitlapse.shapes import Float
from circuitlapse.stats.similarity import p_value

_SHOWN = 3


@dataclass(frozen=True)
class RoleChange:
    """Distance of one head's profile in the tuned model from that in the base.

    ``noise`` is the largest distance between halves of the prompts or to a placebo. ``features``
    are those that changed most, with their change, the largest first.
    """

    head: str
    distance: float
    noise: float
    changed: bool
    features: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Move:
    """A role that left one head and appeared in another."""

    source: str
    target: str
    approach: float


@dataclass(frozen=True)
class Roles:
    """Changes of the heads' roles.

    Attributes:
        changes: One per head, in the order of the profiles.
        moves: From which head to which, the largest approach first.
        p_value: One for all moves together; None if no role moved, or every head changed.
    """

    changes: list[RoleChange]
    moves: list[Move]
    p_value: float | None

    @property
    def changed(self) -> tuple[str, ...]:
        """Heads whose role changed."""
        return tuple(change.head for change in self.changes if change.changed)


def compare_roles(
    base: HeadProfiles,
    tuned: HeadProfiles,
    halves: tuple[HeadProfiles, HeadProfiles],
    placebos: Sequence[HeadProfiles] = (),
    *,
    seed: int,
    repeats: int = 1000,
) -> Roles:
    """Find the heads whose roles changed, and which roles moved.

    ``halves`` are profiles of the base on two disjoint halves of the prompts. All others are of the
    same prompts.

    Raises:
        CircuitlapseError: If the profiles have different heads or features.
    """
    for other in (tuned, *halves, *placebos):
        if (other.heads, other.features) != (base.heads, base.features):
            raise CircuitlapseError(
                "head profiles must have the same heads and features",
                got=f"{len(other.heads)} heads with {len(other.features)} features, and "
                f"{len(base.heads)} with {len(base.features)}",
                fix="Measure them on one task, all with edge scores or all without",
            )
    noise = np.max(
        [
            _distance(halves[0].values, halves[1].values),
            *(_distance(base.values, placebo.values) for placebo in placebos),
        ],
        axis=0,
    )
    distance = _distance(base.values, tuned.values)
    changed = (distance > noise) & (distance >= SMALLEST_ROLE_CHANGE)
    changes = [
        RoleChange(
            head, float(distance[i]), float(noise[i]), bool(changed[i]), _largest(base, tuned, i)
        )
        for i, head in enumerate(base.heads)
    ]
    return Roles(changes, *_moves(base, tuned, np.flatnonzero(changed), seed, repeats))


def _distance(left: np.ndarray, right: np.ndarray) -> Float[np.ndarray, " heads"]:
    return np.linalg.norm(right - left, axis=1)


def _largest(base: HeadProfiles, tuned: HeadProfiles, row: int) -> tuple[tuple[str, float], ...]:
    change = tuned.values[row] - base.values[row]
    order = np.argsort(-np.abs(change), kind="stable")[:_SHOWN]
    return tuple((base.features[i], float(change[i])) for i in order)


def _moves(
    base: HeadProfiles, tuned: HeadProfiles, changed: np.ndarray, seed: int, repeats: int
) -> tuple[list[Move], float | None]:
    before = np.linalg.norm(base.values[:, None] - base.values[None], axis=2)
    after = np.linalg.norm(base.values[:, None] - tuned.values[None], axis=2)
    approach = before - after  # [old role of, head that came nearer to it]
    np.fill_diagonal(approach, 0.0)
    pairs = _matched(approach, changed, changed)
    moves = [
        Move(base.heads[i], base.heads[j], float(approach[i, j]))
        for i, j in sorted(pairs, key=lambda pair: -approach[pair])
    ]
    if not moves or len(changed) >= len(base.heads):
        return moves, None
    rng = np.random.default_rng(seed)
    null = np.empty(repeats)
    for draw in range(repeats):
        sources = rng.choice(len(base.heads), len(changed), replace=False)
        null[draw] = sum(approach[pair] for pair in _matched(approach, sources, changed))
    return moves, p_value(sum(move.approach for move in moves), null)


def _matched(
    approach: Float[np.ndarray, "heads heads"], sources: np.ndarray, targets: np.ndarray
) -> list[tuple[int, int]]:
    """Match sources to targets one to one for the largest sum of positive approaches."""
    approaches = np.maximum(approach[np.ix_(sources, targets)], 0.0)
    rows, columns = linear_sum_assignment(approaches, maximize=True)
    return [
        (int(sources[row]), int(targets[column]))
        for row, column in zip(rows, columns, strict=True)
        if approaches[row, column] > 0
    ]

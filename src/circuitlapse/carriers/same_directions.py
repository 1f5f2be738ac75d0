"""same_directions: do the old-task heads still write in the directions of the old task?

x(U) = v(M1) - v(M1; of the heads' outputs only the part of (clean - corrupt) in U from M1's
corrupted run), U being some directions of d_model for each head
(:mod:`circuitlapse.carriers.head_directions`).

same_directions = [x(old) - x(other)] / [x(own) - x(other)]. *old*: directions of M0 on the old
task. *own*: of M1 on the new task. *other*: each head gets the old directions of another old-task
head, never its own; a single head gets those of the head with the next largest effect. Directions
come from one half of the prompts and are used on the other, both ways. Subspace patching is that of
Geiger et al. 2024; the ratio is this project's own. Random directions of the head itself are no
zero: with few dimensions a head they carry about half of the effect.
"""

from collections.abc import Sequence

import numpy as np

from circuitlapse.carriers.head_directions import (
    HALVES,
    Directions,
    difference_directions,
    half_of,
)
from circuitlapse.carriers.old_task_heads import Variants
from circuitlapse.models.engine.model import Model
from circuitlapse.records.carriers import SameDirections
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import mean_interval
from circuitlapse.stats.measured import ratio
from circuitlapse.two_models.other_run import Values, from_corrupt
from circuitlapse.two_models.patched_runs import Patch

MOST_DIRECTIONS = 4
MOST_OTHERS = 2


def rank_of(d_head: int) -> int:
    """Return how many directions of a head are taken: a quarter of its dimensions, at most four."""
    return min(MOST_DIRECTIONS, max(1, d_head // 4))


def same_directions(
    base: Model,
    tuned: Model,
    old: Variants,
    new: Variants,
    sets: Sequence[Sequence[str]],
    ranked: Sequence[str],
) -> list[SameDirections]:
    """Measure same_directions of several sets of heads, on test prompts.

    ``ranked`` has heads by their effect in the base on the old task, the largest first.
    """
    rank = rank_of(tuned.decoder.attention[0].W_O.shape[1])
    donors = [_donors(heads, ranked) for heads in sets]
    needed = {head for each in donors for given in each for head in given.values()}
    needed |= {head for heads in sets for head in heads}
    was = difference_directions(base, old, sorted(needed), rank)
    now = difference_directions(tuned, new, sorted(needed), rank)
    patches = [
        [
            patch
            for heads, others in zip(sets, donors, strict=True)
            for patch in _patches(heads, others, was[half], now[half])
        ]
        for half in range(HALVES)
    ]
    undone = _cross_fitted(tuned, new, patches)
    found, start = [], 0
    for others in donors:
        x = undone[start : start + 2 + len(others)]
        start += len(x)
        found.append(_ratio(x, rank))
    return found


def relearned_control(
    base: Model, relearned: Model, old: Variants, heads: Sequence[str], ranked: Sequence[str]
) -> SameDirections:
    """Measure same_directions of a base whose heads were erased and learned the old task again.

    Both tasks are the old one: what heads that start from nothing must write to be read by the
    rest.
    """
    return same_directions(base, relearned, old, old, [heads], ranked)[0]


def _cross_fitted(
    model: Model, task: Variants, patches: Sequence[Sequence[Patch]]
) -> Float[np.ndarray, "patches prompts"]:
    """What patches of one half's directions undo on the other half's prompts."""
    n = len(next(iter(task.values())))
    undone = np.empty((len(patches[0]), n))
    for half, of_half in enumerate(patches):
        rows = half_of(n, 1 - half)
        each = [from_corrupt(model, pairs[rows], of_half) for pairs in task.values()]
        undone[:, rows.numpy()] = Values.mean(each).undone
    return undone


def _donors(heads: Sequence[str], ranked: Sequence[str]) -> list[dict[str, str]]:
    """Say whose old directions each head gets as another's, in up to two ways."""
    if len(heads) == 1:
        return [{heads[0]: head} for head in ranked if head != heads[0]][:1]
    shifts = range(1, min(1 + MOST_OTHERS, len(heads)))
    return [{h: heads[i - s] for i, h in enumerate(heads)} for s in shifts]


def _patches(
    heads: Sequence[str], others: Sequence[dict[str, str]], was: Directions, now: Directions
) -> list[Patch]:
    """Patches in the old directions, in the own ones, and in those of other heads."""
    spaces = [{head: was[head] for head in heads}, {head: now[head] for head in heads}]
    spaces += [{head: was[donor] for head, donor in given.items()} for given in others]
    return [Patch(tuple(heads), directions=space) for space in spaces]


def _ratio(x: Float[np.ndarray, "spaces prompts"], rank: int) -> SameDirections:
    if len(x) < 3:
        return SameDirections(not_reported="no other head has an effect on the old task", rank=rank)
    old, own, other = x[0], x[1], x[2:].mean(axis=0)
    why = "own directions undo no more than another head's"
    found = ratio(old - other, own - other, why=why)
    return SameDirections(
        found.estimate,
        not_reported=found.not_reported,
        rank=rank,
        old=mean_interval(old),
        own=mean_interval(own),
        other=mean_interval(other),
    )

"""How the use of every head changed between the base and the fine-tuned model.

Evidence is the exact patching effect of each head per prompt, in logits, for the old and the new
task: in the base, in the tuned model, and after placebo fine-tunes, which cannot teach the new
task. One threshold holds everywhere: a fraction of how much the old task's counterfactual changes
the base's metric. (The base fails on the new task, so a fraction of its metric there would be a
ratio with a denominator near zero.)

*Used* on a task: the interval of the head's mean effect excludes zero, at 95 % for all heads
together (Bonferroni), and the absolute mean is at least the threshold.

*Changed* on a task: the interval over prompts of the paired difference tuned - base, corrected
likewise, lies farther from zero than the change after any placebo, and the absolute mean difference
is at least the threshold.

On each task a head then has exactly one course:

    idle     base does not use it, and no changed use afterwards
    gained   base does not use it, tuned does, and it changed
    steady   base uses it, and it did not change
    lost     base uses it, tuned does not, and it changed
    sign_changed  both use it with opposite signs, and it changed
    grew     both use it with the same sign, it changed, and its absolute effect is larger
    shrank   the same, and its absolute effect is smaller

gained and grew count as *up*, lost and shrank as *down*. The category is the first that fits, on
either task:

    repurposed    sign_changed on a task; or up on one and down on the other; or used before and
                  after, and its role changed (:mod:`circuitlapse.heads.role_changes`)
    recruited     the base uses it on neither task, and it gained one
    unused        the base uses it on neither task, and it gained none
    retired       every task that the base uses it for is lost
    strengthened  up on a task
    weakened      down on a task
    kept          none of these: the base uses it, and no change was shown
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.heads.thresholds import USED_FRACTION
from circuitlapse.shapes import Bool, Float
from circuitlapse.stats.intervals import (
    Estimate,
    Intervals,
    corrected_confidence,
    mean_interval,
    mean_intervals,
)

Category = Literal[
    "unused", "kept", "strengthened", "weakened", "repurposed", "recruited", "retired"
]
Course = Literal["idle", "gained", "steady", "lost", "sign_changed", "grew", "shrank"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
COURSES: tuple[Course, ...] = get_args(Course)

_CONDITIONS = ("base_old", "base_new", "tuned_old", "tuned_new", "placebo_old", "placebo_new")
_UP, _DOWN = {"gained", "grew"}, {"lost", "shrank"}
_NOT_IN_BASE = {"idle", "gained"}


@dataclass(frozen=True)
class HeadEffects:
    """Per-prompt effects of the same heads in logits; prompts of one task are paired by row.

    Without a placebo, changes are compared with zero.
    """

    heads: Sequence[str] = field(repr=False)
    base_old: Float[np.ndarray, "old_prompts heads"]
    base_new: Float[np.ndarray, "new_prompts heads"]
    tuned_old: Float[np.ndarray, "old_prompts heads"]
    tuned_new: Float[np.ndarray, "new_prompts heads"]
    placebo_old: Float[np.ndarray, "*placebos old_prompts heads"] | None = None
    placebo_new: Float[np.ndarray, "*placebos new_prompts heads"] | None = None

    def __post_init__(self) -> None:
        """Check that the effects can be paired."""
        shapes = {
            name: getattr(self, name).shape[-2:]
            for name in _CONDITIONS
            if getattr(self, name) is not None
        }
        old, new = shapes["base_old"], shapes["base_new"]
        paired = new == shapes["tuned_new"] and old == shapes["tuned_old"]
        paired &= old == shapes.get("placebo_old", old) and new == shapes.get("placebo_new", new)
        if not paired or old[1] != len(self.heads) or new[1] != len(self.heads):
            raise CircuitlapseError(
                f"effects need the same prompts per task and one column for each of "
                f"{len(self.heads)} heads",
                got=shapes,
                fix="Measure all models on the same prompt pairs",
            )


@dataclass(frozen=True)
class HeadChange:
    """One row of the table ``head_changes``, without run and counterfactual.

    The intervals are plain 95 % intervals; the decision's own are wider. The placebo's columns are
    the mean over the placebos, and None where none was run.
    """

    node: str
    layer: int
    head: int
    category: Category
    threshold: float
    used_in_base: bool
    used_in_tuned: bool
    base_old: Estimate
    base_new: Estimate
    tuned_old: Estimate
    tuned_new: Estimate
    placebo_old: Estimate | None = None
    placebo_new: Estimate | None = None


def used_threshold(old_difference: Float[np.ndarray, " prompts"]) -> float:
    """Smallest effect that counts as use, in logits: ``USED_FRACTION`` of the old task's.

    Args:
        old_difference: The base's clean minus corrupt logit difference on the old task.

    Raises:
        CircuitlapseError: If the mean is not clear of zero: then the base does not do the old task,
            or the counterfactual does not break it, and no fraction of it means anything.
    """
    difference = mean_interval(old_difference)
    if difference.low <= 0:
        raise CircuitlapseError(
            "the counterfactual does not lower the base's metric on the old task",
            got=f"clean - corrupt {difference.text(3)}",
            fix="Use a base that solves the old task, another counterfactual, or more prompts",
        )
    return USED_FRACTION * difference.value


def head_changes(
    effects: HeadEffects, threshold: float, role_changed: Collection[str] = ()
) -> list[HeadChange]:
    """Decide every head's category by the table above.

    Raises:
        CircuitlapseError: With fewer than two prompts, or a column that is not a head.
    """
    places = [head_of(head) for head in effects.heads]
    if None in places:
        raise CircuitlapseError(
            "changes are for attention heads", got=effects.heads[places.index(None)]
        )
    confidence = corrected_confidence(len(effects.heads))
    old, uses_old = _courses(
        effects.base_old, effects.tuned_old, effects.placebo_old, threshold, confidence
    )
    new, _ = _courses(
        effects.base_new, effects.tuned_new, effects.placebo_new, threshold, confidence
    )
    shown: dict[str, Intervals] = {}
    for name in _CONDITIONS:
        measured = getattr(effects, name)
        if measured is not None:
            shown[name] = mean_intervals(measured.mean(axis=0) if measured.ndim == 3 else measured)
    rows = []
    for column, (name, place) in enumerate(zip(effects.heads, filter(None, places), strict=True)):
        category = category_of(old[column], new[column], name in role_changed)
        before, after = uses_old[column]
        rows.append(
            HeadChange(
                name,
                place.layer,
                place.head,
                category,
                threshold,
                before,
                before and after,
                **{condition: intervals[column] for condition, intervals in shown.items()},
            )
        )
    return rows


def category_of(old: Course, new: Course, role_changed: bool = False) -> Category:
    """Look up the category for a head's course on the old and on the new task."""
    courses = {old, new}
    up, down = bool(courses & _UP), bool(courses & _DOWN)
    if "sign_changed" in courses or (up and down):
        return "repurposed"
    if courses <= _NOT_IN_BASE:
        return "recruited" if up else "unused"
    if courses - _NOT_IN_BASE == {"lost"}:
        return "retired"
    if role_changed:
        return "repurposed"
    if up:
        return "strengthened"
    return "weakened" if down else "kept"


def course_of(before: bool, after: bool, changed: bool, base: float, tuned: float) -> Course:
    """Look up a head's course on one task.

    ``before`` and ``after`` say whether base and tuned model use it; ``base`` and ``tuned`` are its
    mean effects.
    """
    if not before:
        return "gained" if after and changed else "idle"
    if not changed:
        return "steady"
    if not after:
        return "lost"
    if (base > 0) != (tuned > 0):
        return "sign_changed"
    return "grew" if abs(tuned) > abs(base) else "shrank"


def _courses(
    base: Float[np.ndarray, "prompts heads"],
    tuned: Float[np.ndarray, "prompts heads"],
    placebos: Float[np.ndarray, "*placebos prompts heads"] | None,
    threshold: float,
    confidence: float,
) -> tuple[list[Course], list[tuple[bool, bool]]]:
    """Every head's course, and whether base and tuned model use it."""
    moved = np.zeros(base.shape[1])
    if placebos is not None:
        moves = np.abs((placebos - base).mean(axis=-2, dtype=np.float64))
        moved = moves.reshape(-1, len(moved)).max(axis=0)
    change = mean_intervals(tuned.astype(np.float64) - base, confidence)
    # The end nearer to zero; zero if the interval includes it.
    nearest = np.where(
        change.excludes_zero, np.minimum(np.abs(change.low), np.abs(change.high)), 0.0
    )
    changed = (nearest > moved) & (np.abs(change.value) >= threshold)
    before, after = _used(base, threshold, confidence), _used(tuned, threshold, confidence)
    old_mean, new_mean = base.mean(axis=0), tuned.mean(axis=0)
    courses: list[Course] = [
        course_of(bool(b), bool(a), bool(c), float(x), float(y))
        for b, a, c, x, y in zip(before, after, changed, old_mean, new_mean, strict=True)
    ]
    return courses, list(zip(before.tolist(), after.tolist(), strict=True))


def _used(
    effects: Float[np.ndarray, "prompts heads"], threshold: float, confidence: float
) -> Bool[np.ndarray, " heads"]:
    """Whether each head's mean effect excludes zero and reaches the threshold, ``[heads]``."""
    means = mean_intervals(effects, confidence)
    return means.excludes_zero & (np.abs(means.value) >= threshold)

"""When each head's effect changed over a fine-tune, and whether its sign did.

A change is that between the first and the last checkpoint, with its interval over prompts. Its date
is the step at which 90 % of it is reached. A *flip* is a change of sign where the intervals at both
checkpoints exclude zero. Intervals are corrected for the number of heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import CONFIDENCE, Estimate, corrected_confidence, mean_intervals
from circuitlapse.stats.similarity import SIMILARITIES

_SHARE = 0.9


@dataclass(frozen=True)
class Change:
    """How one quantity changed over a fine-tune.

    Attributes:
        before: Mean at the first checkpoint, in logits.
        after: Mean at the last one.
        change: After minus before, with its interval over prompts.
        sign_changed: Whether the sign changed, beyond both intervals.
        step_of_90: Step at which 90 % of the change is first step_of_90, linear between
        checkpoints; None
            where the interval of the change includes zero.
    """

    before: float
    after: float
    change: Estimate
    sign_changed: bool
    step_of_90: float | None


def changes(
    values: Float[np.ndarray, "steps prompts columns"],
    steps: Sequence[int],
    confidence: float = CONFIDENCE,
) -> list[Change]:
    """Date the change of every column.

    Args:
        values: Each quantity at each checkpoint, on the same prompts throughout, in logits.
        steps: Training step of each checkpoint, rising.
        confidence: Level of each interval.

    Raises:
        CircuitlapseError: With fewer than two checkpoints or prompts, or shapes that disagree.
    """
    if len(steps) < 2 or len(values) != len(steps) or list(steps) != sorted(set(steps)):
        raise CircuitlapseError(
            "a change is dated among at least two checkpoints whose steps rise",
            got=f"values at {len(values)} checkpoints, steps {list(steps)}",
            fix="Keep more checkpoints",
        )
    values = values.astype(np.float64)
    ends = [mean_intervals(values[place], confidence) for place in (0, -1)]
    risen = mean_intervals(values[-1] - values[0], confidence)
    sign_changed = (
        ends[0].excludes_zero & ends[1].excludes_zero & (ends[0].value * ends[1].value < 0)
    )
    means = values.mean(axis=1)
    return [
        Change(
            float(ends[0].value[column]),
            float(ends[1].value[column]),
            risen[column],
            bool(sign_changed[column]),
            _step_of(steps, means[:, column]) if risen.excludes_zero[column] else None,
        )
        for column in range(values.shape[2])
    ]


def head_changes(
    effects: Float[np.ndarray, "steps prompts heads"], steps: Sequence[int]
) -> list[Change]:
    """Date every head's change, with intervals that hold for all heads together."""
    return changes(effects, steps, corrected_confidence(effects.shape[2]))


def behaviour_correlation(
    effects: Float[np.ndarray, "steps prompts heads"], behaviour: Float[np.ndarray, " steps"]
) -> list[float | None]:
    """Pearson correlation of every head's mean effect with the behaviour over the checkpoints.

    None where one of them is constant.
    """
    means = effects.mean(axis=1, dtype=np.float64).T
    found = SIMILARITIES["pearson"](means, np.broadcast_to(behaviour, means.shape))
    return [float(value) if np.isfinite(value) else None for value in found]


def _step_of(steps: Sequence[int], means: Float[np.ndarray, " steps"]) -> float:
    """Step at which the curve first reaches 90 % of its change."""
    way = (means - means[0]) / (means[-1] - means[0])
    after = int(np.flatnonzero(way >= _SHARE)[0])
    part = (_SHARE - way[after - 1]) / (way[after] - way[after - 1])
    return float(steps[after - 1] + part * (steps[after] - steps[after - 1]))


def steps_since(steps: Sequence[int], states: Sequence[str]) -> list[int]:
    """For every step, the first one from which on a head was without a break what it is then.

    Args:
        steps: Steps of the checkpoints, rising.
        states: The head's category or role at each.
    """
    since: list[int] = []
    for index, step in enumerate(steps):
        same = index > 0 and states[index] == states[index - 1]
        since.append(since[-1] if same else step)
    return since


def epoch_ends(n_items: int, batch_size: int, steps: int) -> list[int]:
    """Steps after which every training item has been seen once more."""
    per_epoch = -(-n_items // batch_size)
    return list(range(per_epoch, steps + 1, per_epoch))

"""When the effect of each head changed over a fine-tune, and whether its sign changed.

A change is the difference between the first and the last checkpoint, with its interval over
prompts. Its date is the step at which 90 % of it is reached. The sign changed if it differs and the
intervals at both checkpoints exclude zero. Intervals are corrected for the number of heads.
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
        sign_changed: Whether the sign changed.
        step_of_90: First step at which 90 % of the change is reached, interpolated between
            checkpoints; None if the interval of the change includes zero.
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
    """Date the change of every column, in logits; all checkpoints have the same prompts.

    Raises:
        CircuitlapseError: With fewer than two checkpoints or prompts, or steps that do not rise or
            do not match the values.
    """
    if len(steps) < 2 or len(values) != len(steps) or list(steps) != sorted(set(steps)):
        raise CircuitlapseError(
            "dating a change needs at least two checkpoints with rising steps",
            got=f"values at {len(values)} checkpoints, steps {list(steps)}",
            fix="Keep more checkpoints",
        )
    values = values.astype(np.float64)
    ends = [mean_intervals(values[place], confidence) for place in (0, -1)]
    change = mean_intervals(values[-1] - values[0], confidence)
    sign_changed = (
        ends[0].excludes_zero & ends[1].excludes_zero & (ends[0].value * ends[1].value < 0)
    )
    means = values.mean(axis=1)
    return [
        Change(
            float(ends[0].value[column]),
            float(ends[1].value[column]),
            change[column],
            bool(sign_changed[column]),
            _step_of(steps, means[:, column]) if change.excludes_zero[column] else None,
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
    """Correlate every head's mean effect with the behaviour over the checkpoints (Pearson).

    None if one of them is constant.
    """
    means = effects.mean(axis=1, dtype=np.float64).T
    found = SIMILARITIES["pearson"](means, np.broadcast_to(behaviour, means.shape))
    return [float(value) if np.isfinite(value) else None for value in found]


def _step_of(steps: Sequence[int], means: Float[np.ndarray, " steps"]) -> float:
    """Return the step at which the curve first reaches 90 % of its change."""
    share = (means - means[0]) / (means[-1] - means[0])
    after = int(np.flatnonzero(share >= _SHARE)[0])
    part = (_SHARE - share[after - 1]) / (share[after] - share[after - 1])
    return float(steps[after - 1] + part * (steps[after] - steps[after - 1]))


def steps_since(steps: Sequence[int], states: Sequence[str]) -> list[int]:
    """Return for every step since when a head has had its present category or role."""
    since: list[int] = []
    for index, step in enumerate(steps):
        same = index > 0 and states[index] == states[index - 1]
        since.append(since[-1] if same else step)
    return since


def epoch_ends(n_items: int, batch_size: int, steps: int) -> list[int]:
    """Steps after which every training item has been seen once more."""
    per_epoch = -(-n_items // batch_size)
    return list(range(per_epoch, steps + 1, per_epoch))

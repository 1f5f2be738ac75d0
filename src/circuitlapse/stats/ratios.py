"""Shares of a whole with their intervals; there are none if the whole may be zero.

The parts and the whole share one bootstrap over prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import (
    Estimate,
    Intervals,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)


@dataclass(frozen=True)
class Divided:
    """Parts of a whole.

    Attributes:
        whole: In the unit of the values.
        parts: One per column, in the same unit.
        shares: Each part over the whole; None if the whole's interval is not above zero.
    """

    whole: Estimate
    parts: Intervals
    shares: Intervals | None

    def share(self, column: int) -> Estimate | None:
        """Return one part's share; None without shares."""
        return None if self.shares is None else self.shares[column]


def divide(
    parts: Float[np.ndarray, "prompts columns"],
    whole: Float[np.ndarray, " prompts"],
    *,
    seed: int | Sequence[int],
    repeats: int = 1000,
    rounding: float = 0.0,
) -> Divided:
    """Estimate the means of all parts and of the whole, and their ratios.

    There are no ratios if the whole does not exceed ``rounding``, the precision of the values.
    """
    values = np.column_stack([parts, whole]).astype(np.float64)
    means = values.mean(axis=0)
    drawn = bootstrap_means(values, bootstrap_indices(len(values), repeats, seed))
    return summarised(means, drawn, rounding)


def summarised(
    means: Float[np.ndarray, " columns"],
    drawn: Float[np.ndarray, "repeats columns"],
    rounding: float = 0.0,
) -> Divided:
    """Make intervals of resampled means, of which the last column is the whole."""
    low, high = percentile_ends(drawn)
    whole = Estimate(value=float(means[-1]), low=float(low[-1]), high=float(high[-1]))
    shares = None
    if whole.low > rounding:
        # At most 2.5 % of the resamples have no improvement; those have no shares either.
        positive = drawn[drawn[:, -1] > rounding]
        ends = percentile_ends(positive[:, :-1] / positive[:, -1:])
        shares = Intervals(means[:-1] / means[-1], *ends)
    return Divided(whole, Intervals(means[:-1], low[:-1], high[:-1]), shares)


def logit_rounding(values: np.ndarray) -> float:
    """Rounding of logit differences, which are single precision."""
    return float(np.abs(values).mean() * np.finfo(np.float32).eps)

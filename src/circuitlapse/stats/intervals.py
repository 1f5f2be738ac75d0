"""95 % intervals over prompts, for every number that ends up in a table.

Means get Student's t interval, proportions Wilson's (it stays inside 0 to 1 and does not collapse
at 0 of n or n of n), and anything built from several quantities at once gets a bootstrap whose
resampled prompts are drawn once and shared, so that what varies together is resampled together.

The formulae are scipy's; this module only gives them the project's shapes, levels and refusals. It
sits among the records because every layer that fills a table needs it, and it imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Float, Int

CONFIDENCE = 0.95


class Estimate(BaseModel):
    """A value with the ends of its 95 % interval."""

    # A ratio that is a lower bound has no upper end, and JSON has no infinity.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return the table's columns ``name``, ``name_low`` and ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str) -> "Estimate | None":
        """Read the columns that :meth:`columns` gives; None where they are null."""
        if row[name] is None:
            return None
        return cls(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"])

    def text(self, digits: int = 2, unit: str = "") -> str:
        """Write the value with its interval: ``0.42 [0.35, 0.49]``."""
        return f"{self.value:.{digits}f}{unit} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclass(frozen=True)
class Intervals:
    """Values with the ends of their intervals, one per column."""

    value: Float[np.ndarray, " columns"]
    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self.value)

    def __getitem__(self, column: int) -> Estimate:
        """Return one column as an estimate."""
        return Estimate(
            value=float(self.value[column]),
            low=float(self.low[column]),
            high=float(self.high[column]),
        )

    @property
    def excludes_zero(self) -> np.ndarray:
        """Whether each interval excludes zero."""
        return (self.low > 0) | (self.high < 0)


def mean_intervals(
    values: Float[np.ndarray, "prompts columns"], confidence: float = CONFIDENCE
) -> Intervals:
    """Mean of every column over the prompts with its Student t interval.

    ``confidence`` is the level of each interval; see :func:`corrected_confidence`.

    Raises:
        CircuitlapseError: With fewer than two prompts, or a value that is not finite.
    """
    n = len(values)
    if n < 2:
        raise CircuitlapseError(
            "an interval over prompts needs at least two prompts", got=n, fix="Use more prompts"
        )
    if not np.isfinite(values).all():
        raise CircuitlapseError(
            "a per-prompt value is not a finite number",
            got=f"first at prompt {int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])}",
            fix="Look for an overflow in the model or an empty group of tokens",
        )
    values = values.astype(np.float64)
    mean = values.mean(axis=0)
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return Intervals(mean, mean - half, mean + half)


def mean_interval(values: Float[np.ndarray, " prompts"]) -> Estimate:
    """Mean over the prompts with its 95 % Student t interval; see :func:`mean_intervals`."""
    return mean_intervals(values[:, None])[0]


def near_zero(values: Float[np.ndarray, " prompts"]) -> str | None:
    """Say why the mean of a ratio's denominator may be zero; None if it is clear of zero.

    The 95 % interval over prompts (Student's t) must exclude zero.
    """
    if len(values) < 2:
        return "one prompt gives no interval for the denominator"
    if not np.isfinite(values).all():
        return "the denominator is not a finite number"
    mean = mean_interval(values)
    if mean.low > 0 or mean.high < 0:
        return None
    return (
        f"the denominator is not clear of zero: {mean.value:.3g} "
        f"(95 % interval {mean.low:.3g} to {mean.high:.3g})"
    )


def proportion_interval(successes: int, n: int) -> Estimate:
    """Proportion of successes among ``n`` trials with its 95 % Wilson interval.

    Raises:
        CircuitlapseError: Without trials, or with more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise CircuitlapseError(
            "a proportion needs between 0 and n successes among n >= 1 trials",
            got=f"{successes} of {n}",
        )
    ends = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    # At 0 and n successes scipy's ends miss 0 and 1 by a rounding error.
    value = successes / n
    return Estimate(value=value, low=min(float(ends.low), value), high=max(float(ends.high), value))


def bootstrap_indices(
    n: int, repeats: int, seed: int | Sequence[int]
) -> Int[np.ndarray, "repeats prompts"]:
    """Draw prompts with replacement.

    Quantities of the same prompts must be resampled with the same rows: pass the result to each.
    """
    return np.random.default_rng(seed).integers(0, n, size=(repeats, n))


def bootstrap_means(
    values: Float[np.ndarray, "prompts columns"], indices: Int[np.ndarray, "repeats prompts"]
) -> Float[np.ndarray, "repeats columns"]:
    """Mean of every column in every resample.

    Resamples become counts of prompts, so one matrix product computes all means.
    """
    repeats, n = indices.shape
    flat = indices + n * np.arange(repeats)[:, None]
    counts = np.bincount(flat.ravel(), minlength=repeats * n).reshape(repeats, n)
    return counts.astype(np.float64) @ values.astype(np.float64) / n


def percentile_ends(
    draws: Float[np.ndarray, "repeats columns"],
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Lower and upper ends of the central 95 % of every column's draws."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high


def clopper_pearson(successes: int, n: int) -> Estimate:
    """A proportion with its exact 95 % interval (Clopper and Pearson 1934).

    Raises:
        CircuitlapseError: Without trials, or with more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise CircuitlapseError(
            "a proportion needs between 0 and n successes among n >= 1 trials",
            got=f"{successes} of {n}",
        )
    ends = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(value=successes / n, low=float(ends.low), high=float(ends.high))


def corrected_confidence(n_heads: int) -> float:
    """Level of each head's interval for a joint level of 95 % (Bonferroni)."""
    return 1 - 0.05 / max(1, n_heads)

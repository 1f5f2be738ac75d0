"""How much of an overlap is noise: its interval, its ceiling, its correction and its null.

A correlation of two noisy vectors is lower than that of what they measure, by the root of the
product of their reliabilities (Spearman 1904): value / sqrt(r_left r_right) is the correlation
without noise. A vector's reliability is what it would correlate with itself measured again on as
many prompts: 2 h / (1 + h), where h is the correlation of two halves (Spearman 1910, Brown 1910).
The correction is refused where a reliability is too low, and never clamped: it can exceed 1. It
takes the noise of both sides for independent: for two models on the same prompts, which share some
of it, it is an upper bound.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from circuitlapse.compare.similarity import Similarity
from circuitlapse.compare.thresholds import LOWEST_RELIABILITY
from circuitlapse.records.intervals import CONFIDENCE
from circuitlapse.shapes import Float, Int

_CHUNK = 2**22  # floats that a block of shuffles may hold at once


def half_means(
    effects: Float[np.ndarray, "prompts nodes"], splits: int, seed: Sequence[int]
) -> Float[np.ndarray, "2 splits nodes"]:
    """Mean effects over random disjoint halves of the prompts, in logits."""
    n = len(effects)
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (splits, 1)), axis=1)
    first = (order < n // 2).astype(np.float64)  # which prompts are in the first half
    second = 1 - first
    return np.stack([first @ effects / (n // 2), second @ effects / (n - n // 2)])


def half_agreement(
    similarity: Similarity, halves: Float[np.ndarray, "2 splits components"]
) -> float | None:
    """Mean similarity of the two halves over the splits; None where it is never defined."""
    agreement = similarity(halves[0], halves[1])
    agreement = agreement[np.isfinite(agreement)]
    return float(agreement.mean()) if len(agreement) else None


def corrected_for_noise(
    value: float, left_halves: float | None, right_halves: float | None
) -> tuple[float | None, str]:
    """Correct a correlation for the noise of both sides, or say why that cannot be done.

    Args:
        value: The correlation, over all prompts.
        left_halves: Correlation of the left side's halves; None where there is none.
        right_halves: Likewise of the right side's.

    Returns:
        The corrected correlation and an empty text, or None and the reason.
    """
    reliabilities = []
    for side, halves in (("left", left_halves), ("right", right_halves)):
        if halves is None:
            return None, f"the {side} side has no reliability"
        # Halves that contradict each other have none: the formula's pole lies there, too.
        reliability = 2 * halves / (1 + halves) if halves > 0 else 0.0
        if reliability < LOWEST_RELIABILITY:
            return None, (
                f"the {side} side's reliability is {reliability:.2f}, below {LOWEST_RELIABILITY}"
            )
        reliabilities.append(reliability)
    return value / float(np.sqrt(np.prod(reliabilities))), ""


def shuffled(
    similarity: Similarity,
    left: Float[np.ndarray, " components"],
    right: Float[np.ndarray, " components"],
    sources: Int[np.ndarray, "repeats components"],
) -> Float[np.ndarray, " repeats"]:
    """Similarity to ``left`` when the labels of ``right`` are shuffled, both already prepared."""
    repeats, components = sources.shape
    size = max(1, _CHUNK // components)
    blocks = (slice(begin, begin + size) for begin in range(0, repeats, size))
    return np.concatenate([similarity.combine(left, right[sources[block]]) for block in blocks])


def p_value(value: float, null: Float[np.ndarray, " repeats"]) -> float:
    """One-sided permutation p-value, (k + 1)/(n + 1): it is never zero."""
    # A shuffle that changes nothing may differ from the value by rounding only.
    reached = int((null >= value - 1e-12).sum())
    return (reached + 1) / (len(null) + 1)


def spread_interval(
    similarity: Similarity, value: float, draws: Float[np.ndarray, " repeats"]
) -> tuple[float | None, float | None]:
    """95 % interval from the spread of the resamples, on a scale without bounds.

    Every resample adds sampling noise once more, so the draws lie lower than the value and their
    percentiles need not even contain it. Only their spread is used, after a logit transform of
    the measure's range (for correlations this is Fisher's z), which keeps the ends inside it.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2:
        return None, None

    def unbounded(x: np.ndarray) -> np.ndarray:
        part = (x - similarity.lowest) / (1 - similarity.lowest)
        part = np.clip(part, 1e-9, 1 - 1e-9)  # identical vectors reach the bound itself
        return np.log(part) - np.log1p(-part)

    half = stats.norm.ppf((1 + CONFIDENCE) / 2) * unbounded(draws).std(ddof=1)
    centre = unbounded(np.array([value]))[0]
    low, high = (
        float(similarity.lowest + (1 - similarity.lowest) / (1 + np.exp(-end)))
        for end in (centre - half, centre + half)
    )
    return min(low, value), max(high, value)

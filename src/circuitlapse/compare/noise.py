"""How much of an overlap is noise: its interval, its ceiling and its null."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from circuitlapse.compare.permutations import EdgeSources
from circuitlapse.compare.similarity import Similarity
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


def shuffled(
    similarity: Similarity,
    left: Float[np.ndarray, " components"],
    right: Float[np.ndarray, " components"],
    sources: Int[np.ndarray, "repeats components"] | EdgeSources,
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

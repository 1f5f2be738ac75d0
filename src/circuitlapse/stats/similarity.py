"""Three measures of how alike two importance vectors are.

Importances are compared as graded vectors, never as pruned sets, which redundancy makes unstable.

``pearson`` and ``spearman`` take the signed importances, so that a component which helps in one
place and hurts in the other counts against the overlap. ``weighted_jaccard`` (Ruzicka's measure)
takes absolute importances scaled to sum to 1: the sum of the smaller over the sum of the larger
value of each component. It ignores signs, asking only whether the same components matter.

Each measure is split in a preparation of one vector and a combination of two prepared ones. Both
the shuffling of components and thousands of resamples then cost one preparation per vector.

How much of an overlap is noise: its interval, its ceiling, its correction and its null.

A correlation of two noisy vectors is lower than that of what they measure, by the root of the
product of their reliabilities (Spearman 1904): value / sqrt(r_left r_right) is the correlation
without noise. A vector's reliability is what it would correlate with itself measured again on as
many prompts: 2 h / (1 + h), where h is the correlation of two halves (Spearman 1910, Brown 1910).
The correction is refused where a reliability is too low, and never clamped: it can exceed 1. It
takes the noise of both sides for independent: for two models on the same prompts, which share some
of it, it is an upper bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from circuitlapse.shapes import Float, Int
from circuitlapse.stats.intervals import CONFIDENCE

Vectors = np.ndarray  # [..., components]; leading axes broadcast


@dataclass(frozen=True)
class Similarity:
    """One measure.

    Attributes:
        prepare: Brings vectors ``[..., components]`` into a form that commutes with shuffling the
            components; all nan where the measure is undefined.
        combine: Value for pairs of prepared vectors, ``[..., components]`` to ``[...]``.
        lowest: The smallest value the measure can take; the largest is 1.
        undefined: When a vector has no such measure.
    """

    prepare: Callable[[Vectors], Vectors]
    combine: Callable[[Vectors, Vectors], np.ndarray]
    lowest: float
    undefined: str

    def __call__(self, left: Vectors, right: Vectors) -> np.ndarray:
        """Similarity of raw vectors, nan where it is undefined."""
        return self.combine(self.prepare(left), self.prepare(right))


def _standardise(values: Vectors) -> Vectors:
    # Compared exactly, since the mean of a constant vector can differ from it by rounding.
    constant = values.max(axis=-1, keepdims=True) == values.min(axis=-1, keepdims=True)
    centred = values - values.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    constant = constant | (norm == 0)
    return np.where(constant, np.nan, centred / np.where(constant, 1.0, norm))


def _ranks(values: Vectors) -> Vectors:
    return _standardise(stats.rankdata(values, axis=-1))


def _weights(values: Vectors) -> Vectors:
    total = np.abs(values).sum(axis=-1, keepdims=True)
    return np.where(total == 0, np.nan, np.abs(values) / np.where(total == 0, 1.0, total))


def _dot(left: Vectors, right: Vectors) -> np.ndarray:
    return np.asarray(np.einsum("...i,...i->...", left, right))


def _jaccard(left: Vectors, right: Vectors) -> np.ndarray:
    # Both sum to 1, so the larger values sum to 2 minus what the smaller ones sum to.
    smaller = np.minimum(left, right).sum(axis=-1)
    return np.asarray(smaller / (2 - smaller))


_CONSTANT = "all its importances are equal"

SIMILARITIES: dict[str, Similarity] = {
    "pearson": Similarity(_standardise, _dot, -1.0, _CONSTANT),
    "spearman": Similarity(_ranks, _dot, -1.0, _CONSTANT),
    "weighted_jaccard": Similarity(_weights, _jaccard, 0.0, "all its importances are zero"),
}


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

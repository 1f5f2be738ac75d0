"""Three measures of similarity of importance vectors.

Importances are compared as graded vectors, not as pruned sets, which redundancy makes unstable.
``pearson`` and ``spearman`` take signed importances, so components of opposite effects lower them.
``weighted_jaccard`` (Ruzicka's measure) takes absolute importances scaled to sum to 1: the sum of
the smaller over the sum of the larger value of each component. It ignores signs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from circuitlapse.shapes import Float, Int
from circuitlapse.stats.intervals import CONFIDENCE

Vectors = np.ndarray  # [..., components]; leading axes broadcast


@dataclass(frozen=True)
class Similarity:
    """One measure, in two steps, so that shuffles and resamples prepare a vector only once.

    Attributes:
        prepare: Transforms vectors ``[..., components]``, and commutes with shuffling the
            components; nan if the measure is undefined.
        combine: Value for pairs of prepared vectors, ``[..., components]`` to ``[...]``.
        lowest: Smallest possible value; the largest is 1.
        undefined: Why a vector may have no such measure.
    """

    prepare: Callable[[Vectors], Vectors]
    combine: Callable[[Vectors, Vectors], np.ndarray]
    lowest: float
    undefined: str

    def __call__(self, left: Vectors, right: Vectors) -> np.ndarray:
        """Similarity of raw vectors; nan if undefined."""
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
    # Both sum to 1, so the sum of the larger values is 2 minus that of the smaller ones.
    smaller = np.minimum(left, right).sum(axis=-1)
    return np.asarray(smaller / (2 - smaller))


_CONSTANT = "all its importances are equal"

SIMILARITIES: dict[str, Similarity] = {
    "pearson": Similarity(_standardise, _dot, -1.0, _CONSTANT),
    "spearman": Similarity(_ranks, _dot, -1.0, _CONSTANT),
    "weighted_jaccard": Similarity(_weights, _jaccard, 0.0, "all its importances are zero"),
}

_CHUNK = 2**22  # floats of a block of shuffles


def shuffled(
    similarity: Similarity,
    left: Float[np.ndarray, " components"],
    right: Float[np.ndarray, " components"],
    sources: Int[np.ndarray, "repeats components"],
) -> Float[np.ndarray, " repeats"]:
    """Similarity of prepared vectors for each shuffle of the components of ``right``."""
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
    """95 % interval from the standard deviation of the resamples, on a scale without bounds.

    Every resample adds sampling noise, so the draws are lower than the value and their percentiles
    may exclude it. The standard deviation is taken after a logit transform of the measure's range
    (for correlations, Fisher's z), which keeps the ends within the range.
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

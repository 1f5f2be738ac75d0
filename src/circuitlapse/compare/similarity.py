"""Three measures of how alike two importance vectors are.

Importances are compared as graded vectors, never as pruned sets, which redundancy makes unstable.

``pearson`` and ``spearman`` take the signed importances, so that a component which helps in one
place and hurts in the other counts against the overlap. ``weighted_jaccard`` (Ruzicka's measure)
takes absolute importances scaled to sum to 1: the sum of the smaller over the sum of the larger
value of each component. It ignores signs, asking only whether the same components matter.

Each measure is split in a preparation of one vector and a combination of two prepared ones. Both
the shuffling of components and thousands of resamples then cost one preparation per vector.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

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

"""Whether fine-tuning brought the new task, by three criteria.

A logit difference also grows if all logits are scaled up, although nothing was learnt. So the
candidate accuracy must rise too, and the logit difference in units of the logits' standard
deviation over the vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from circuitlapse.records.answers import Behaviour
from circuitlapse.stats.intervals import (
    Estimate,
    Intervals,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)
from circuitlapse.verdict.preconditions import logits, percent
from circuitlapse.verdict.thresholds import SMALLEST_ACCURACY_GAIN


@dataclass(frozen=True)
class Gain:
    """Rises from base to tuned model on the new task's test prompts.

    Attributes:
        logits: G, of the logit difference.
        accuracy: Of the candidate accuracy.
        standardised: Of the logit difference in units of the logits' spread.
    """

    logits: Estimate
    accuracy: Estimate
    standardised: Estimate

    @property
    def alike(self) -> bool:
        """Whether the two models answer every prompt alike, as a model and its copy do."""
        return self.logits.low == self.logits.value == self.logits.high == 0

    def absent(self) -> str:
        """Say why there is no gain; empty unless a rise's interval lies at or below its bound."""
        if self.alike:
            return "The two models answer every prompt of the new task alike."
        return next((said for rise, least, said in self._bounds() if rise.high <= least), "")

    def unclear(self) -> str:
        """Say why a gain is not shown; empty if all three intervals lie above their bounds."""
        return next((said for rise, least, said in self._bounds() if rise.low <= least), "")

    def _bounds(self) -> list[tuple[Estimate, float, str]]:
        rise, least = self.standardised, SMALLEST_ACCURACY_GAIN
        found = f"G is {logits(self.logits)}"
        return [
            (self.logits, 0.0, f"{found}, and its interval is not above zero."),
            (
                self.accuracy,
                least,
                f"{found}, but the candidate accuracy rose by {percent(self.accuracy)}, not "
                f"clearly by {100 * least:.0f} %.",
            ),
            (
                rise,
                0.0,
                f"{found}, but in units of the logits' spread the logit difference rose by "
                f"{rise.text()}: the model may be surer, not better.",
            ),
        ]


def measured_gain(base: Behaviour, tuned: Behaviour, *, seed: int = 0) -> Gain:
    """Compare the answers of two models to the same prompts."""
    rises = np.stack(
        [
            getattr(tuned, part).astype(np.float64) - getattr(base, part).astype(np.float64)
            for part in ("logit_diff", "candidate_correct", "standardised")
        ],
        axis=1,
    )
    drawn = bootstrap_means(rises, bootstrap_indices(len(rises), 1000, seed))
    found = Intervals(rises.mean(axis=0), *percentile_ends(drawn))
    return Gain(found[0], found[1], found[2])

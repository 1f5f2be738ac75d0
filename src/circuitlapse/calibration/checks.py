"""Is a candidate what it was made to be? Each mechanism has bounds for its own figures.

They are set before any candidate is scored and name no measure of the rule. A candidate that fails
is judged all the same, and counted in a column of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from circuitlapse.calibration.scored_rows import Mechanism


@dataclass(frozen=True)
class Criterion:
    """Bounds of one figure of a candidate, both included."""

    figure: str
    low: float = -inf
    high: float = inf

    def failed(self, figures: Mapping[str, float]) -> str:
        """Say why the figure fails; empty if it passes."""
        value = figures[self.figure]
        if self.low <= value <= self.high:
            return ""
        bounds = {f"at least {self.low}": self.low, f"at most {self.high}": self.high}
        wanted = " and ".join(text for text, bound in bounds.items() if isfinite(bound))
        return f"{self.figure} is {value:.3f}, not {wanted}"


# The rule itself asks for three of four answers; a mechanism that works reaches more.
_LEARNED = (Criterion("tuned_new", low=0.85),)
_LOCKED = (
    Criterion("base_old", low=0.95),
    Criterion("base_new", low=0.2, high=0.5),
    Criterion("put_back_new", low=0.95),
    Criterion("tuned_new", low=0.95),
)
CRITERIA: dict[Mechanism, tuple[Criterion, ...]] = {
    "old_heads": _LEARNED,
    "erased_heads": (Criterion("erased_old", high=0.75), *_LEARNED),
    "upper_blank_heads": _LEARNED,
    "lower_blank_heads": _LEARNED,
    "blank_head_lock": _LOCKED,
    "layer_lock": _LOCKED,
    "norm_lock": _LOCKED,
    "first_named": _LEARNED,
    "second_actor": _LEARNED,
    "placebo": (Criterion("rise", high=0.05),),
    "head_adapters": _LEARNED,
}
"""Erased heads leave at most half of what lies above chance, which is .5 with two names.

``_old`` and ``_new`` are accuracies on validation prompts, over the candidates: of the base, of
the tuned model, of the base with erased heads, and of a locked base with the locking parts put back
to their values before the lock. ``rise`` is that of ``_new`` from base to tuned model."""


def why_refused(mechanism: Mechanism, figures: Mapping[str, float]) -> str:
    """Say why a candidate is not what it was made to be; empty if it is."""
    failures = (criterion.failed(figures) for criterion in CRITERIA[mechanism])
    return "; ".join(failure for failure in failures if failure)

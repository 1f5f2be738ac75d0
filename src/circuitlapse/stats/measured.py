"""A ratio over prompts with its interval and the values of random groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Float
from circuitlapse.stats.apart_groups import Compared
from circuitlapse.stats.intervals import (
    Estimate,
    bootstrap_indices,
    bootstrap_means,
    near_zero,
)
from circuitlapse.stats.ratios import Divided, divide, logit_rounding, summarised

FEWEST_GROUPS = 9
"""With fewer, being above all of them has a chance of more than a tenth, and decides nothing."""

SEED = 0


@dataclass(frozen=True)
class Measured:
    """One measure.

    Attributes:
        estimate: Its value with the 95 % interval over prompts; None where it is not reported.
        groups: The same of random groups of heads.
        not_reported: Why there is no estimate; empty where there is one.
    """

    estimate: Estimate | None = None
    groups: tuple[float, ...] = ()
    not_reported: str = ""

    @property
    def above_groups(self) -> bool | None:
        """Whether the low end lies above all groups; None with too few groups, or no estimate."""
        if self.estimate is None or len(self.groups) < FEWEST_GROUPS:
            return None
        return self.estimate.low > max(self.groups)


def ratio(
    part: Float[np.ndarray, " prompts"],
    whole: Float[np.ndarray, " prompts"],
    groups: Sequence[Float[np.ndarray, " prompts"]] = (),
    why: str = "",
) -> Measured:
    """Return mean part over mean whole; not reported unless the whole is clear of zero.

    Prompts are resampled. ``why`` says in words what the whole is.
    """
    rounding = logit_rounding(np.stack([part, whole]))
    return _reported(divide(part[:, None], whole, seed=SEED, rounding=rounding), whole, groups, why)


def ratios(
    sets: Sequence[Compared],
    parts: Float[np.ndarray, "sets_and_groups prompts"],
    whole: Float[np.ndarray, " prompts"],
    why: str = "",
) -> list[Measured]:
    """Return :func:`ratio` of each set of heads with its groups; parts are in that order."""
    found, start = [], 0
    for each in sets:
        own, *groups = parts[start : start + len(each.sets)]
        found.append(ratio(own, whole, groups, why))
        start += len(each.sets)
    return found


def ratio_of_tasks(
    part: Float[np.ndarray, " prompts"], whole: Float[np.ndarray, " other_prompts"], why: str = ""
) -> Measured:
    """Return :func:`ratio` where part and whole are of different prompts, resampled apart."""
    drawn = [
        bootstrap_means(values[:, None], bootstrap_indices(len(values), 1000, (SEED, i)))[:, 0]
        for i, values in enumerate((part, whole))
    ]
    means = np.array([part.mean(), whole.mean()])
    return _reported(summarised(means, np.stack(drawn, axis=1)), whole, (), why)


def _reported(
    divided: Divided, whole: np.ndarray, groups: Sequence[np.ndarray], why: str
) -> Measured:
    share = divided.share(0)
    if share is None:
        reason = near_zero(whole) or f"it is not above zero: {whole.mean():.3g}"
        return Measured(not_reported=f"{why}: {reason}" if why else reason)
    values = [float(group.mean() / whole.mean()) for group in groups]
    return Measured(share, tuple(values))

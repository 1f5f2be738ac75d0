"""Bits that a model needs to learn a task, and their ratio to those of the reference task.

Prequential coding (Voita and Titov 2020): every batch is predicted before it is trained
on, so the sum of the losses is what the examples had to teach. A loss that stays is taken off.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from circuitlapse.stats.intervals import CONFIDENCE

LEVEL = 0.15
"""Bits per prompt that do not count; a task is learned when the mean of WINDOW batches is below."""
WINDOW = 8
FEWEST_ORDERS, MOST_ORDERS = 3, 9
MARK = 0.6
"""Orders are added until the interval of the ratio excludes this value."""

Which = Literal["new", "reference"]


class BitsPass(BaseModel):
    """One pass of a recipe over different prompts, until the task is learned.

    Attributes:
        order: Seed of the pass. Passes of one order train on the same prompts in the same batches.
        curve: Mean -log2 p(answer | candidates) of each batch's new prompts, before its step.
            Batches with replay only are left out.
        counts: Number of new prompts in each of these batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: int
    curve: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def learned(self) -> bool:
        """Whether the mean of the last eight batches is below .15 bits."""
        return is_learned(self.curve)

    @property
    def bits(self) -> float:
        """Bits above .15 per prompt; a lower bound if the task was not learned."""
        above = np.clip(np.asarray(self.curve) - LEVEL, 0, None)
        return float((above * np.asarray(self.counts)).sum())

    @property
    def prompts(self) -> int:
        """Number of new prompts until the task was learned, or in the whole pass."""
        return sum(self.counts)


def is_learned(curve: Sequence[float]) -> bool:
    """Whether a curve ends with eight batches whose mean is below .15 bits."""
    return len(curve) >= WINDOW and float(np.mean(curve[-WINDOW:])) < LEVEL


class BitsRatio(BaseModel):
    """Bits of the new task over bits of the reference task, over paired orders of the prompts.

    Attributes:
        orders: Number of orders.
        new_bits: Mean over orders; a lower bound if ``lower_bound``.
        reference_bits: Mean over orders.
        ratio: Ratio of the means; None if it is not reported.
        low: Lower end of its 95 % interval.
        high: Upper end; None if there is none, because the ratio is a lower bound.
        lower_bound: Whether the new task was not learned in a pass.
        why_not: Why there is no ratio; else empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: int
    new_bits: float
    reference_bits: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    lower_bound: bool = False
    why_not: str = ""

    @property
    def is_settled(self) -> bool:
        """Whether there are enough orders: three or more, and no ratio or one that excludes .6."""
        if self.orders < FEWEST_ORDERS:
            return False
        above = self.low is not None and self.low > MARK
        return bool(self.why_not) or above or (self.high is not None and self.high < MARK)


def bits_ratio(new: Sequence[BitsPass], reference: Sequence[BitsPass]) -> BitsRatio:
    """Return the ratio of the mean bits of passes that are paired by their order.

    The interval is Student's t on the logarithm of the ratio of means. Its standard error is that
    of the difference of each order's bits, relative to their means (delta method for paired
    samples), and so it needs no logarithm of a pass that costs nothing.

    There is no ratio if the reference was not learned in a pass, or if its mean is not above what
    :data:`LEVEL` takes off in :data:`WINDOW` batches. There is no interval with one order.
    """
    if [each.order for each in new] != [each.order for each in reference] or not new:
        raise ValueError("passes of the new task and of the reference must have the same orders")
    top, bottom = (np.array([each.bits for each in passes]) for passes in (new, reference))
    means = {
        "orders": len(new),
        "new_bits": float(top.mean()),
        "reference_bits": float(bottom.mean()),
        "lower_bound": not all(each.learned for each in new),
    }
    if reason := _why_not(reference, bottom):
        return BitsRatio(**means, why_not=reason)
    ratio = float(top.mean() / bottom.mean())
    if len(new) == 1:
        return BitsRatio(**means, ratio=ratio)
    relative = top / (top.mean() or 1.0) - bottom / bottom.mean()
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(new) - 1) * stats.sem(relative)
    low, high = (float(ratio * np.exp(sign * half)) for sign in (-1, 1))
    return BitsRatio(**means, ratio=ratio, low=low, high=None if means["lower_bound"] else high)


def _why_not(reference: Sequence[BitsPass], bits: np.ndarray) -> str:
    missed = sum(not each.learned for each in reference)
    if missed:
        return f"the reference task was not learned in {missed} of {len(bits)} passes"
    least = LEVEL * max(sum(each.counts[-WINDOW:]) for each in reference)
    if bits.mean() > least:
        return ""
    return (
        f"the base nearly solves the reference task: it takes {bits.mean():.0f} bits, and the "
        f"ratio needs more than {least:.0f}"
    )


def measure_bits_ratio(run_pass: Callable[[Which, int], BitsPass]) -> BitsRatio:
    """Run paired passes of new orders until their ratio is settled, and return it.

    ``run_pass`` gets a task and an order. Three to nine orders are run, until the interval excludes
    .6. A true ratio of just .6 is then excluded in one of six cases, not in one of twenty.
    """
    new: list[BitsPass] = []
    reference: list[BitsPass] = []
    while True:
        order = len(new)
        new.append(run_pass("new", order))
        reference.append(run_pass("reference", order))
        found = bits_ratio(new, reference)
        hopeless = not reference[-1].learned
        if hopeless or found.is_settled or found.orders == MOST_ORDERS:
            return found

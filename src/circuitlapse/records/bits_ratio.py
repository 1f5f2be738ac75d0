"""Bits that a model needs to learn a task, and their ratio to those of the reference task.

Prequential coding (Voita and Titov 2020): every batch is predicted before it is trained
on, so the sum of the losses is what the examples had to teach. A loss that stays is taken off.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy import stats

from circuitlapse.stats.intervals import CONFIDENCE, Estimate
from circuitlapse.stats.measured import Measured

LEVEL = 0.15
"""Bits per prompt that do not count; a task is learned when the mean of WINDOW batches is below."""
WINDOW = 8
BITS_BATCH = 8
"""Prompts per step of a pass that measures bits, whatever the recipe: with 32, a task that is
unlocked in a few steps costs as many batches as one that is learned."""
FEWEST_ORDERS, MOST_ORDERS = 3, 9

Which = Literal["new", "reference"]
WHICH: tuple[Which, ...] = get_args(Which)


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


class BitsPasses(BaseModel):
    """Passes of both tasks, paired by order, or why there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    new: tuple[BitsPass, ...] = ()
    reference: tuple[BitsPass, ...] = ()
    not_reported: str = ""

    def ratio(self) -> "BitsRatio":
        """Return bits_ratio of these passes."""
        if self.not_reported:
            return BitsRatio(not_reported=self.not_reported)
        return bits_ratio(self.new, self.reference)


def is_learned(curve: Sequence[float]) -> bool:
    """Whether a curve ends with eight batches whose mean is below .15 bits."""
    return len(curve) >= WINDOW and float(np.mean(curve[-WINDOW:])) < LEVEL


@dataclass(frozen=True)
class BitsRatio(Measured):
    """Bits of the new task over bits of the reference task, over paired orders of the prompts.

    Attributes:
        estimate: Ratio of the mean bits with its 95 % interval over orders. Without an upper end,
            which is infinity, if the ratio is a lower bound.
        orders: Number of orders.
        new_bits: Mean over orders; a lower bound if ``lower_bound``.
        reference_bits: Mean over orders.
        lower_bound: Whether the new task was not learned in a pass.
    """

    orders: int = 0
    new_bits: float = 0.0
    reference_bits: float = 0.0
    lower_bound: bool = False

    def is_settled(self, mark: float) -> bool:
        """Whether there are enough orders: at least three, and no interval with the mark in it."""
        found = self.estimate
        decides = found is None or found.low > mark or found.high < mark
        return self.orders >= FEWEST_ORDERS and decides


def bits_ratio(new: Sequence[BitsPass], reference: Sequence[BitsPass]) -> BitsRatio:
    """Return the ratio of the mean bits of passes that are paired by their order.

    The interval is Student's t on the logarithm of the ratio of means. Its standard error is that
    of the difference of each order's bits, relative to their means (delta method for paired
    samples), and so it needs no logarithm of a pass that costs nothing.

    It is not reported if the reference was not learned in a pass, if its mean is not above what
    :data:`LEVEL` takes off in :data:`WINDOW` batches, or with one order.
    """
    if [each.order for each in new] != [each.order for each in reference] or not new:
        raise ValueError("passes of the new task and of the reference must have the same orders")
    top, bottom = (np.array([each.bits for each in passes]) for passes in (new, reference))
    lower_bound = not all(each.learned for each in new)
    ratio, reason = None, _why_not(reference, bottom)
    if not reason:
        relative = top / (top.mean() or 1.0) - bottom / bottom.mean()
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(new) - 1) * stats.sem(relative)
        value = float(top.mean() / bottom.mean())
        low, high = (float(value * np.exp(sign * half)) for sign in (-1, 1))
        ratio = Estimate(value=value, low=low, high=np.inf if lower_bound else high)
    return BitsRatio(
        estimate=ratio,
        not_reported=reason,
        orders=len(new),
        new_bits=float(top.mean()),
        reference_bits=float(bottom.mean()),
        lower_bound=lower_bound,
    )


def _why_not(reference: Sequence[BitsPass], bits: np.ndarray) -> str:
    missed = sum(not each.learned for each in reference)
    if missed:
        return f"the reference task was not learned in {missed} of {len(bits)} passes"
    least = LEVEL * max(sum(each.counts[-WINDOW:]) for each in reference)
    if bits.mean() > least:
        return "" if len(bits) > 1 else "one order of the prompts gives no interval"
    return (
        f"the base nearly solves the reference task: it takes {bits.mean():.0f} bits, and the "
        f"ratio needs more than {least:.0f}"
    )


def measure_bits(run_pass: Callable[[Which, int], BitsPass], mark: float) -> BitsPasses:
    """Run paired passes of new orders until their ratio is settled, and return them.

    ``run_pass`` gets a task and an order. Three to nine orders are run, until the interval excludes
    ``mark``. If the true ratio is just the mark, it is excluded in one of six cases, because each
    added order is one more chance.
    """
    found = BitsPasses()
    while True:
        order = len(found.new)
        new, reference = (run_pass(which, order) for which in WHICH)
        found = BitsPasses(new=(*found.new, new), reference=(*found.reference, reference))
        if not reference.learned or order + 1 == MOST_ORDERS or found.ratio().is_settled(mark):
            return found

"""Each group's part of the improvement: add-one-in, leave-one-out and Shapley.

v(S) is the mean logit difference on the new task's prompts of the base with the tuned weights of
the groups in S; the improvement is G = v(all) - v(none). For a group g

- *add-one-in* is v({g}) - v(none), the effect of adding it to the base alone;
- *leave-one-out* is v(all) - v(all but g), the effect of removing it from the tuned model;
- *shapley* is the mean of v(S + g) - v(S) over all orders in which groups can be added (Shapley
  1953). Only these sum to G over the groups.

Intervals come from one bootstrap over prompts that serves every quantity, so that a share's
numerator and denominator vary together. There are no shares if the interval of G is not above zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import factorial
from typing import Literal, get_args

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import GROUPS, Group
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.ratios import divide, logit_rounding

Quantity = Literal["add_one_in", "leave_one_out", "shapley"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
SUBSETS: tuple[frozenset[Group], ...] = tuple(
    frozenset(group for bit, group in enumerate(GROUPS) if number >> bit & 1)
    for number in range(2 ** len(GROUPS))
)
"""All sets of groups; the first is empty and the last holds all of them."""


@dataclass(frozen=True)
class Contribution:
    """One row of the table ``grafts``, without the columns that name the run."""

    group: Group
    quantity: Quantity
    n_parameters: int
    improvement: Estimate
    share: Estimate | None


@dataclass(frozen=True)
class Shares:
    """How the improvement divides among the groups.

    Attributes:
        improvement: G in logits.
        rows: Every group under every quantity.
    """

    improvement: Estimate
    rows: list[Contribution]

    def of(self, quantity: Quantity) -> dict[Group, Contribution]:
        """Return the groups' contributions under one quantity."""
        return {row.group: row for row in self.rows if row.quantity == quantity}


def gain_shares(
    values: Float[np.ndarray, "subsets prompts"],
    n_parameters: Mapping[Group, int],
    *,
    seed: int,
    repeats: int = 1000,
) -> Shares:
    """Divide the improvement among the groups.

    Args:
        values: Logit difference of the hybrid for each of :data:`SUBSETS`, per prompt.
        n_parameters: Size of each group, for the table.
        seed: Fixes the bootstrap.
        repeats: Bootstrap resamples of the prompts.

    Raises:
        CircuitlapseError: If a subset is missing or there are fewer than two prompts.
    """
    n_subsets, prompts = values.shape
    if n_subsets != len(SUBSETS) or prompts < 2:
        raise CircuitlapseError(
            f"shares need all {len(SUBSETS)} grafted models on at least two prompts",
            got=f"{n_subsets} grafted models on {prompts} prompts",
        )
    values = values.astype(np.float64)
    names: list[tuple[Quantity, Group]] = [
        (quantity, group) for quantity in QUANTITIES for group in GROUPS
    ]
    per_prompt = np.stack([contribution(values, *name) for name in names], axis=1)
    divided = divide(
        per_prompt,
        values[-1] - values[0],
        seed=seed,
        repeats=repeats,
        rounding=logit_rounding(values),
    )
    rows = []
    for i, (quantity, group) in enumerate(names):
        part, share = divided.parts[i], divided.share(i)
        rows.append(Contribution(group, quantity, n_parameters[group], part, share))
    return Shares(divided.whole, rows)


def contribution(
    values: Float[np.ndarray, "subsets prompts"], quantity: Quantity, group: Group
) -> Float[np.ndarray, " prompts"]:
    """Improvement that a group adds to the sets without it, per prompt, weighted as above."""
    n = len(GROUPS)
    total = np.zeros(values.shape[1])
    for number, before in enumerate(SUBSETS):
        if group in before:
            continue
        size = len(before)
        weight = {
            "add_one_in": float(size == 0),
            "leave_one_out": float(size == n - 1),
            "shapley": factorial(size) * factorial(n - size - 1) / factorial(n),
        }[quantity]
        total += weight * (values[SUBSETS.index(before | {group})] - values[number])
    return total

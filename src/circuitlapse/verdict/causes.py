"""The improvement divided among its causes: elicited, transformed, formed, and elsewhere.

Between the base M0 and the tuned model M1 is the *rescaled base*, M0 with one fitted output scale
per head and MLP (:mod:`circuitlapse.two_models.fit_scales`):

    elicited     (v(rescaled M0) - v(M0)) / G: what M0 already computes, rescaled
    transformed  Shapley share of the old-task heads in the step from rescaled M0 to M1
    formed       that of the recruited heads
    elsewhere    that of everything else: other heads, MLPs, embeddings, normalisations, biases

v is the mean logit difference on the new task's test prompts and G = v(M1) - v(M0). The four shares
sum to 1, and none is clamped: scales that hurt make *elicited* negative.

A logit difference also grows if all logits are scaled up, although nothing was learnt. Two further
rises are therefore measured that no scale can bring: of the candidate accuracy, and of the logit
difference in units of the logits' standard deviation over the vocabulary.

The table ``grafts`` has each group's part of the improvement in three ways. v(S) is the mean logit
difference of the base with the tuned weights of the groups in S. For a group g

- *add-one-in* is v({g}) - v(none), the effect of adding it to the base alone;
- *leave-one-out* is v(all) - v(all but g), the effect of removing it from the tuned model;
- *shapley* is the mean of v(S + g) - v(S) over all orders in which groups can be added (Shapley
  1953). Only these sum to G over the groups.

One bootstrap over prompts serves every quantity, so that a share's numerator and denominator vary
together. There are no shares if the interval of G is not above zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import Literal, get_args

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.documents import GROUPS, Group
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import (
    Estimate,
    Intervals,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)
from circuitlapse.stats.ratios import divide, logit_rounding, summarised

ELSEWHERE: tuple[Group, ...] = ("other_heads", "mlps", "shared")
Quantity = Literal["add_one_in", "leave_one_out", "shapley"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
SUBSETS: tuple[frozenset[Group], ...] = tuple(
    frozenset(group for bit, group in enumerate(GROUPS) if number >> bit & 1)
    for number in range(2 ** len(GROUPS))
)
"""All sets of groups; the first is empty and the last holds all of them."""


Cause = Literal["elicited", "transformed", "formed", "elsewhere"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


@dataclass(frozen=True, eq=False)
class Measured:
    """One fine-tune, on the new task's test prompts.

    Attributes:
        base: Answers of M0.
        tuned: Answers of M1.
        hybrids: Logit difference of every graft of M1 into rescaled M0, in the order of
            :data:`circuitlapse.verdict.causes.SUBSETS`: rescaled M0 first, M1 last.
    """

    base: Behaviour
    tuned: Behaviour
    hybrids: Float[np.ndarray, "subsets prompts"]


@dataclass(frozen=True)
class Causes:
    """The improvement and how it divides.

    Attributes:
        improvement: G in logits.
        accuracy_gain: Rise of the candidate accuracy.
        standardised_gain: Rise of the logit difference in units of the logits' spread.
        shares: Of each cause; None where G's interval is not above zero.
        add_one_in: Share that each group's weights bring to rescaled M0 alone; None likewise.
        leave_one_out: Share that is lost when they alone are put back in M1; None likewise.
        n_runs: How many fine-tunes these are about.
    """

    improvement: Estimate
    accuracy_gain: Estimate
    standardised_gain: Estimate
    shares: dict[Cause, Estimate] | None
    add_one_in: dict[Group, float] | None
    leave_one_out: dict[Group, float] | None
    n_runs: int


def divide_gain(runs: Sequence[Measured], *, seed: int, repeats: int = 1000) -> Causes:
    """Divide the improvement of one or more fine-tunes among its causes.

    One fine-tune has a bootstrap over prompts. Several have a hierarchical one: fine-tunes are
    drawn with replacement, and the prompts too, the same ones for all fine-tunes of a draw, since
    all answer the same prompts.

    Args:
        runs: One per fine-tune.
        seed: Fixes the bootstrap.
        repeats: Resamples.

    Raises:
        CircuitlapseError: Without a fine-tune, with fewer than two prompts, a hybrid missing, or
            with different prompts in different fine-tunes.
    """
    shapes = sorted({run.hybrids.shape for run in runs})
    if len(shapes) != 1 or shapes[0][0] != len(SUBSETS) or shapes[0][1] < 2:
        raise CircuitlapseError(
            f"causes need all {len(SUBSETS)} grafted models on the same prompts, at least two",
            got=shapes,
            fix="Measure every fine-tune on one set of test prompts",
        )
    columns = np.stack([_columns(run) for run in runs])
    n_runs, prompts, _ = columns.shape
    of_prompts = bootstrap_indices(prompts, repeats, [seed, 0])
    of_runs = bootstrap_indices(n_runs, repeats, [seed, 1])
    means = np.stack([bootstrap_means(each, of_prompts) for each in columns], axis=1)
    drawn = np.take_along_axis(means, of_runs[:, :, None], axis=1).mean(axis=1)
    value = columns.mean(axis=(0, 1))
    rises = Intervals(value[:2], *percentile_ends(drawn[:, :2]))
    rounding = logit_rounding(np.stack([run.hybrids for run in runs]))
    divided = summarised(value[2:], drawn[:, 2:], rounding)
    shares: dict[Cause, Estimate] | None = None
    add_one_in: dict[Group, float] | None = None
    leave_one_out: dict[Group, float] | None = None
    if divided.shares is not None:
        n, values = len(CAUSES), divided.shares.value.tolist()
        shares = {cause: divided.shares[i] for i, cause in enumerate(CAUSES)}
        add_one_in = dict(zip(GROUPS, values[n : n + len(GROUPS)], strict=True))
        leave_one_out = dict(zip(GROUPS, values[n + len(GROUPS) :], strict=True))
    return Causes(divided.whole, rises[0], rises[1], shares, add_one_in, leave_one_out, n_runs)


def _columns(run: Measured) -> Float[np.ndarray, "prompts columns"]:
    """Per prompt: both rises, each cause's improvement, add-one-in and leave-one-out, and G."""
    base, tuned = (each.logit_diff.astype(np.float64) for each in (run.base, run.tuned))
    right = run.tuned.candidate_correct.astype(np.float64) - run.base.candidate_correct.astype(
        np.float64
    )
    standardised = run.tuned.standardised.astype(np.float64) - run.base.standardised.astype(
        np.float64
    )
    hybrids = run.hybrids.astype(np.float64)

    def shapley(*groups: Group) -> np.ndarray:
        return sum((contribution(hybrids, "shapley", group) for group in groups), 0.0 * base)

    return np.stack(
        [
            right,
            standardised,
            hybrids[0] - base,
            shapley("old_heads"),
            shapley("recruited_heads"),
            shapley(*ELSEWHERE),
            *(contribution(hybrids, "add_one_in", group) for group in GROUPS),
            *(contribution(hybrids, "leave_one_out", group) for group in GROUPS),
            tuned - base,
        ],
        axis=1,
    )


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

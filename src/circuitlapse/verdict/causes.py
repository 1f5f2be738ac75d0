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
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.documents import CAUSES, GROUPS, Cause, Group
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import (
    Estimate,
    Intervals,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)
from circuitlapse.stats.ratios import logit_rounding, summarised
from circuitlapse.verdict.shares import SUBSETS, contribution

ELSEWHERE: tuple[Group, ...] = ("other_heads", "mlps", "shared")


@dataclass(frozen=True, eq=False)
class Measured:
    """One fine-tune, on the new task's test prompts.

    Attributes:
        base: Answers of M0.
        tuned: Answers of M1.
        hybrids: Logit difference of every graft of M1 into rescaled M0, in the order of
            :data:`circuitlapse.verdict.shares.SUBSETS`: rescaled M0 first, M1 last.
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

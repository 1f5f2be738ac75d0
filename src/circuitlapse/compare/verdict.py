"""The verdict: the evidence put together, and how far it lets one go.

This version measures the evidence but has no decision rule that was tested on planted truths. It
therefore gives only two labels: ``no_gain`` where the base does the old task and the interval of G
is not above zero, and ``undetermined`` everywhere else, with the reason. It never names elicited,
transformed or formed.
"""

from collections.abc import Sequence

from circuitlapse.compare.fates import Fates
from circuitlapse.compare.overlap import Overlap
from circuitlapse.compare.preconditions import Findings, check_preconditions, logits, percent
from circuitlapse.compare.shares import Shares
from circuitlapse.compare.statements import GROUP_NAMES, Context, statements
from circuitlapse.compare.thresholds import OLD_MASTERED
from circuitlapse.records.documents import Precondition, Verdict

ONE_RUN = "this run"
"""Scope of a verdict from one seed: its intervals speak about prompts only."""


def build_verdict(
    context: Context,
    findings: Findings,
    shares: Shares,
    overlaps: Sequence[Overlap],
    fates: Fates | None,
) -> Verdict:
    """Put the evidence of one run together.

    Args:
        context: Tasks, step and seeds that the evidence is about.
        findings: Behaviour of base, tuned model and placebo.
        shares: What the groups' weights bring, on test prompts.
        overlaps: Rows of the overlap table under ``context.corruption``; those that are not about
            the old task in the base and the new task in the tuned model are passed over.
        fates: What became of the heads, under the same corruption; None where that could not be
            decided because the base does not do the old task.
    """
    checked = check_preconditions(findings, shares.gain)
    # Without the old task there is nothing that a gain could have come from, or not.
    no_gain = shares.gain.low <= 0 and findings.base_old.low >= OLD_MASTERED
    return Verdict(
        label="no_gain" if no_gain else "undetermined",
        reason=_no_gain(context, shares) if no_gain else _undetermined(checked, shares),
        scope=ONE_RUN,
        gain=shares.gain,
        shares={group: row.share_estimate for group, row in shares.of("shapley").items()},
        preconditions=checked,
        evidence=statements(context, findings, shares, overlaps, fates),
    )


def _no_gain(context: Context, shares: Shares) -> str:
    return (
        f"The logit difference on {context.new} did not demonstrably rise: G is "
        f"{logits(shares.gain)}, and its interval is not above zero."
    )


def _undetermined(checked: Sequence[Precondition], shares: Shares) -> str:
    failed = [check for check in checked if not check.holds]
    if failed:
        listed = "; ".join(f'"{check.name}" ({check.detail})' for check in failed)
        return f"Not every precondition of a verdict holds. Those that fail: {listed}."
    text = (
        "Every precondition holds, and the evidence was measured, but in this version the rule "
        "that would decide between elicited, transformed and formed has not been calibrated on "
        "planted truths. So no winner is named."
    )
    found = [row for row in shares.of("shapley").values() if row.share_estimate is not None]
    largest = max(found, key=lambda row: row.gain)
    share = largest.share_estimate
    if share is not None:
        text += (
            f" As a description: the largest Shapley share of the gain is that of the "
            f"{GROUP_NAMES[largest.group]}, {percent(share)}."
        )
    return text

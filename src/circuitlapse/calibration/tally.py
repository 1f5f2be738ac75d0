"""From judged organisms to counts with exact intervals."""

from collections.abc import Iterable, Sequence

from scipy import stats

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.calibration import (
    CAUSAL,
    LABEL_OF,
    CalibratedOrganism,
    Outcome,
    Tally,
)
from circuitlapse.records.documents import Estimate, Label
from circuitlapse.records.intervals import CONFIDENCE

ALL_CAUSES = "all causes"


def outcome_of(kind: str, label: Label) -> Outcome:
    """Hold a label against what was planted."""
    if label == "undetermined":
        return "undetermined"
    return "right" if label == LABEL_OF[kind] else "wrong"


def clopper_pearson(successes: int, n: int) -> Estimate:
    """A proportion with its exact 95 % interval (Clopper and Pearson 1934).

    Raises:
        CircuitlapseError: Without trials, or with more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise CircuitlapseError(
            "a proportion needs between 0 and n successes among n >= 1 trials",
            got=f"{successes} of {n}",
        )
    ends = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(value=successes / n, low=float(ends.low), high=float(ends.high))


def confusion(organisms: Iterable[CalibratedOrganism]) -> dict[str, dict[str, int]]:
    """Count the labels of the scored organisms, by what was planted."""
    counts: dict[str, dict[str, int]] = {}
    for each in organisms:
        if each.scored and each.label is not None:
            row = counts.setdefault(each.kind, {})
            row[each.label] = row.get(each.label, 0) + 1
    return counts


def tallies(organisms: Sequence[CalibratedOrganism]) -> list[Tally]:
    """Count what was right, wrong and undetermined: per kind, and the three causes together."""
    scored = [each for each in organisms if each.scored]
    groups = {ALL_CAUSES: [each for each in scored if each.kind in CAUSAL]}
    for kind in LABEL_OF:
        groups[kind] = [each for each in scored if each.kind == kind]
    return [_tally(kind, members) for kind, members in groups.items() if members]


def _tally(kind: str, members: Sequence[CalibratedOrganism]) -> Tally:
    n = len(members)
    counts = {
        outcome: sum(each.outcome == outcome for each in members)
        for outcome in ("right", "wrong", "undetermined")
    }
    return Tally(
        kind=kind,
        n=n,
        **counts,
        right_share=clopper_pearson(counts["right"], n),
        wrong_share=clopper_pearson(counts["wrong"], n),
    )

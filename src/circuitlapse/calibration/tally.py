"""From judged organisms to counts with exact intervals."""

from collections.abc import Iterable, Sequence

from circuitlapse.records.calibration import CAUSAL, LABEL_OF, CalibratedOrganism, Outcome, Tally
from circuitlapse.stats.intervals import clopper_pearson

ALL_CAUSES = "all causes"


def outcome_of(kind: str, label: str) -> Outcome:
    """Compare a label with the ground truth."""
    if label == "undetermined":
        return "undetermined"
    return "right" if label == LABEL_OF[kind] else "wrong"


def confusion(organisms: Iterable[CalibratedOrganism]) -> dict[str, dict[str, int]]:
    """Count the labels of the scored organisms, by kind."""
    counts: dict[str, dict[str, int]] = {}
    for each in organisms:
        if each.scored and each.label is not None:
            row = counts.setdefault(each.kind, {})
            row[each.label] = row.get(each.label, 0) + 1
    return counts


def tallies(organisms: Sequence[CalibratedOrganism]) -> list[Tally]:
    """Count right, wrong and undetermined labels per kind, and for all causes together."""
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

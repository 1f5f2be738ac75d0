"""The result of a calibration: ``calibration.json``, and what it says of the rule's errors.

Models with known ground truth are judged by the same rule as any run. How often the label is right
says how far labels may be trusted, on models like these. The record that ships has the candidates
that were scored so far; it may be incomplete, and then says so.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from circuitlapse.records.documents import Carrier, How, Label, Precondition
from circuitlapse.stats.intervals import Estimate, clopper_pearson

Outcome = Literal["right", "wrong", "undetermined", "open"]
"""``open``: the mechanism has no known truth that the label could be compared with."""
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "undetermined", "open")

_PAGE = "docs/results/calibration.md"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Document):
    """A label of one candidate, compared with the truth.

    Attributes:
        label: The label.
        how: Of ``formed``: by new heads, or in place.
        carrier: What carries the change, as a description.
        outcome: Whether the label is right; the carrier does not count.
        reason: What decided.
        survives: The label with other choices of old-task heads.
    """

    label: Label
    how: How
    carrier: Carrier
    outcome: Outcome
    reason: str
    survives: dict[str, Label]


class MeasuredValue(_Document):
    """One measure of one set of heads, as the tables ``carriers`` and ``bits`` have it.

    Attributes:
        heads: The set of heads; empty for measures of the whole model.
        names: Its heads.
        measure: The measure.
        estimate: Its value with the 95 % interval; null where it is not reported.
        groups: The values of the random groups.
        not_reported: Why there is no estimate.
    """

    heads: str
    names: tuple[str, ...] = ()
    measure: str
    estimate: Estimate | None = None
    groups: tuple[float, ...] = ()
    not_reported: str = ""


DECIDING = {
    "variable_effect": ("", "variable_effect"),
    "bits_ratio": ("", "bits_ratio"),
    "dependence": ("old", "dependence"),
    "same_directions": ("old", "same_directions"),
    "relearned": ("relearned", "same_directions"),
    "sufficiency": ("old", "sufficiency"),
    "new_sufficiency": ("new", "sufficiency"),
    "new_necessity": ("new", "necessity"),
    "driving_necessity": ("driving", "necessity"),
}
"""Measures that decide a label, by set of heads and measure."""


class ScoredCandidate(_Document):
    """One candidate: how it was made, what was measured, and its label.

    Attributes:
        name: Its name.
        key: Hash of settings, marks and seeds; a candidate of this key is not made again.
        row: Row of the table.
        mechanism: How it was made.
        base: Name of its base.
        seed: Seed of its fine-tunes.
        base_seed: Seed of its base; null if no seed passed the gate.
        variant: The control fine-tune of row 7; else empty.
        refused: Why it is not what it was made to be, with the figure that failed; else empty.
        figures: What its mechanism's check looked at.
        heads: The base's old-task heads.
        trained: Parts that were trained alone, if any.
        answer: The label; null if there are no models.
        answer_without_bits: The label without bits_ratio.
        gain: The rises on the new task, by name.
        preconditions: What must hold before a label means anything.
        measures: All measures. With gain and preconditions they give the label again.
        bits: Mean bits of the new task and of the reference, and the number of orders.
        seconds: Time for making and judging it, without its base.
    """

    name: str
    key: str
    row: int
    mechanism: str
    base: str
    seed: int
    base_seed: int | None
    variant: str = ""
    refused: str = ""
    figures: dict[str, float] = {}
    heads: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    answer: Answer | None = None
    answer_without_bits: Answer | None = None
    gain: dict[str, Estimate] = {}
    preconditions: tuple[Precondition, ...] = ()
    measures: tuple[MeasuredValue, ...] = ()
    bits: dict[str, float] = {}
    seconds: float = 0.0

    def measured(self, heads: str, measure: str) -> Estimate | None:
        """Return a measure of a set of heads; None where it is not reported."""
        found = {(one.heads, one.measure): one.estimate for one in self.measures}
        return found.get((heads, measure))

    @property
    def deciding(self) -> dict[str, Estimate | None]:
        """The measures that decide the label, by name."""
        return {name: self.measured(*which) for name, which in DECIDING.items()}


class PlannedRow(_Document):
    """One mechanism of the table.

    Attributes:
        number: Row of the table.
        mechanism: How its candidates are made.
        says: The mechanism in words.
        truth: The labels that are right, in words.
        carrier: What carries the change; empty where it is not known.
        held_out: Whether no mark was looked at on it.
        n: Number of candidates.
    """

    number: int
    mechanism: str
    says: str
    truth: str
    carrier: Carrier
    held_out: bool
    n: int


class Tally(_Document):
    """How often the label was right, among candidates that were not refused.

    Attributes:
        says: What is counted.
        planned: Number of candidates to make.
        refused: Number of candidates that were refused.
        right: Number with a right label.
        wrong: Number with a wrong label.
        undetermined: Number without an answer.
        open: Number without a known truth; they are in no share.
        carrier: Number of right labels whose carrier is the known one; null where none is.
    """

    says: str
    planned: int
    refused: int
    right: int
    wrong: int
    undetermined: int
    open: int
    carrier: int | None = None

    @property
    def n(self) -> int:
        """Number of scored candidates."""
        return self.right + self.wrong + self.undetermined

    def share(self, outcome: Outcome) -> Estimate | None:
        """Return the share of an outcome with its exact 95 % interval; None where there is none."""
        if outcome == "open" or not self.n:
            return None
        return clopper_pearson(getattr(self, outcome), self.n)


class Calibration(_Document):
    """The rule scored on models with known ground truth.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        edition: Edition of how candidates are made and measured.
        rule: Hash of the rule's code, without comments, when marks and seeds were frozen.
        circuitlapse: Version of this package.
        settings: How candidates are trained and measured, by name.
        marks: The rule's marks when they were frozen, by name.
        rows: What is scored.
        bases: Seeds that are tried in turn for each base, by its name.
        candidates: The candidates that are finished, refused ones included.
    """

    schema_version: Literal[2] = 2
    edition: int
    rule: str
    circuitlapse: str
    settings: dict[str, int | float]
    marks: dict[str, float]
    rows: tuple[PlannedRow, ...]
    bases: dict[str, tuple[int, ...]]
    candidates: tuple[ScoredCandidate, ...] = ()

    @property
    def planned(self) -> int:
        """Number of candidates of all rows."""
        return sum(row.n for row in self.rows)

    def tallies(self, *, with_bits: bool = True) -> list[Tally]:
        """Count outcomes by mechanism."""
        return [
            tally(
                row.says,
                row.n,
                [each for each in self.candidates if each.mechanism == row.mechanism],
                row.carrier,
                with_bits=with_bits,
            )
            for row in self.rows
        ]

    def total(self, *, with_bits: bool = True) -> Tally:
        """Count outcomes of all mechanisms."""
        return tally("all", self.planned, self.candidates, with_bits=with_bits)


def tally(
    says: str,
    planned: int,
    found: Iterable[ScoredCandidate],
    carrier: Carrier = "",
    *,
    with_bits: bool = True,
) -> Tally:
    """Count the outcomes of some candidates."""
    found = list(found)
    answers = [
        each.answer if with_bits else each.answer_without_bits for each in found if not each.refused
    ]
    labels = [answer for answer in answers if answer is not None]
    counts = {outcome: sum(each.outcome == outcome for each in labels) for outcome in OUTCOMES}
    carried = [each for each in labels if each.outcome == "right" and each.carrier == carrier]
    return Tally(
        says=says,
        planned=planned,
        refused=sum(bool(each.refused) for each in found),
        carrier=len(carried) if carrier else None,
        **counts,
    )


@cache
def released() -> Calibration:
    """Return the calibration of this version's rule; docs/results/calibration.md describes it."""
    found = resources.files("circuitlapse.records").joinpath("calibration.json")
    return Calibration.model_validate_json(found.read_text(encoding="utf-8"))


def known_errors(
    marks: Mapping[str, float], found: Calibration | None = None, *, with_bits: bool = True
) -> str:
    """Say in one sentence how often a rule with these marks is right on models of known truth."""
    found = released() if found is None else found
    if changed := sorted(name for name in found.marks if found.marks[name] != marks.get(name)):
        names = ", ".join(changed)
        return f"its errors are unknown: marks differ from those that were calibrated ({names})"
    total = found.total(with_bits=with_bits)
    if not total.n:
        unknown = "its errors on models with known ground truth are not known yet"
        return f"{unknown}: none of {found.planned} was scored ({_PAGE})"
    counts = ", ".join(_counted(total, outcome) for outcome in OUTCOMES if outcome != "open")
    done, planned = len(found.candidates), found.planned
    rest = "" if done == planned else f"; scored {done} of {planned}"
    refused = f"; {total.refused} refused" if total.refused else ""
    refused += f"; {total.open} without a known truth" if total.open else ""
    said = f"on {total.n} models with known ground truth, labels were {counts}"
    return f"{said}{refused}{rest} ({_PAGE})"


def _counted(found: Tally, outcome: Outcome) -> str:
    share = found.share(outcome)
    ends = "" if share is None else f" ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
    return f"{outcome} {getattr(found, outcome)}{ends}"

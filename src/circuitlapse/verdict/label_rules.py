"""The conditions of each label, on the measures of one fine-tune.

:mod:`circuitlapse.verdict.label` has the rule in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from circuitlapse.records.carriers import OTHER_VARIABLE, Choice
from circuitlapse.records.documents import Condition, How, Label, Precondition
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured
from circuitlapse.verdict import label_marks as marks
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.measures import Measures, heads_of_directions


@dataclass(frozen=True)
class LabelEvidence:
    """What the label of one fine-tune rests on.

    Attributes:
        gain: Rises on the new task.
        variable_effect: None where the tasks change different variables.
        dependence: On the old-task heads.
        same_directions: Of the old-task heads.
        sufficiency: Of the old-task heads.
        new_sufficiency: Of the new heads.
        new_necessity: Of the new heads.
        driving_necessity: Of the driving heads.
        bits_ratio: See :mod:`circuitlapse.records.bits_ratio`.
        relearned: same_directions of the relearned control; None where it was not measured.
        late_writers: Old-task heads that same_directions leaves out for want of that control.
        preconditions: What must hold before a label means anything.
    """

    gain: Gain
    variable_effect: Measured | None
    dependence: Measured = field(default_factory=Measured)
    same_directions: Measured = field(default_factory=Measured)
    sufficiency: Measured = field(default_factory=Measured)
    new_sufficiency: Measured = field(default_factory=Measured)
    new_necessity: Measured = field(default_factory=Measured)
    driving_necessity: Measured = field(default_factory=Measured)
    bits_ratio: Measured = field(default_factory=Measured)
    relearned: Estimate | None = None
    late_writers: tuple[str, ...] = ()
    preconditions: Sequence[Precondition] = ()

    @classmethod
    def of(
        cls,
        gain: Gain,
        found: Measures,
        *,
        choice: Choice = "old",
        preconditions: Sequence[Precondition] = (),
    ) -> "LabelEvidence":
        """Take the measures of a choice of old-task heads, and of both kinds of new heads.

        Late writers are left out of same_directions without the relearned control. They are known
        of the main choice only.
        """
        relearned = found.of("relearned", "same_directions").estimate
        directions = heads_of_directions(choice, controlled=relearned is not None)
        effect = found.of("", "variable_effect")
        return cls(
            gain=gain,
            variable_effect=None if effect.not_reported == OTHER_VARIABLE else effect,
            dependence=found.of(choice, "dependence"),
            same_directions=found.of(directions, "same_directions"),
            sufficiency=found.of(choice, "sufficiency"),
            new_sufficiency=found.of("new", "sufficiency"),
            new_necessity=found.of("new", "necessity"),
            driving_necessity=found.of("driving", "necessity"),
            bits_ratio=found.of("", "bits_ratio"),
            relearned=relearned,
            late_writers=found.late_writers if directions == "early" else (),
            preconditions=preconditions,
        )


@dataclass(frozen=True)
class Rule:
    """A label with its conditions."""

    label: Label
    conditions: tuple[Condition, ...]
    how: How = ""
    dropped: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[Condition, ...]:
        """The conditions that do not hold."""
        return tuple(each for each in self.conditions if not each.holds)


def rules_of(evidence: LabelEvidence) -> list[Rule]:
    """All labels below variable_effect with their conditions, in order."""
    D, new = evidence.dependence, evidence.new_sufficiency
    same, relearned, bits = evidence.same_directions, evidence.relearned, evidence.bits_ratio
    depends = _low("dependence", D, marks.DEPENDENT)
    above, few = _above_groups("dependence", D)
    new_above, new_few = _above_groups("sufficiency of new heads", new)
    old_way = _low("same_directions", same, marks.SAME_DIRECTIONS)
    latent = _high("bits_ratio", bits, marks.LATENT_BITS)
    low = None if bits.estimate is None else bits.estimate.low
    mark = marks.LATENT_BITS
    taught = Condition("bits_ratio low", low, mark, low is not None and low > mark)
    rules = [
        Rule("elicited", (latent,)),
        Rule(
            "formed",
            (_low("sufficiency of new heads", new, marks.SUFFICIENT), *new_above),
            "new_heads",
            new_few,
        ),
    ]
    if evidence.variable_effect is not None:
        control = Measured(relearned)
        in_place = (
            depends,
            _high("same_directions", same, marks.OTHER_DIRECTIONS),
            _high("relearned control", control, marks.OTHER_DIRECTIONS),
        )
        reused, dropped = [depends, *above, old_way], [*few]
        if relearned is None:
            without = ", ".join(evidence.late_writers)
            late = f"; late writers are left out of same_directions: {without}" if without else ""
            dropped.append(f"no relearned control{late}")
        else:
            reused.append(_low("same_directions above the control", same, relearned.high))
        rules += [
            Rule("formed", in_place, "in_place"),
            Rule("transformed", (*reused, taught), dropped=tuple(dropped)),
            Rule("reused", tuple(reused), dropped=tuple(dropped)),
        ]
    return [*rules, Rule("not_old_heads", (_high("dependence", D, marks.DEPENDENT),))]


def _low(measure: str, found: Measured, mark: float) -> Condition:
    value = None if found.estimate is None else found.estimate.low
    return Condition(f"{measure} low", value, mark, value is not None and value >= mark)


def _high(measure: str, found: Measured, mark: float) -> Condition:
    value = None if found.estimate is None else found.estimate.high
    return Condition(f"{measure} high", value, mark, value is not None and value <= mark)


def _above_groups(measure: str, found: Measured) -> tuple[tuple[Condition, ...], tuple[str, ...]]:
    """The condition on groups; dropped, and said, with too few groups."""
    if found.estimate is None:
        return (), ()
    if found.above_groups is None:
        return (), (f"{measure} compared with random groups: there are {len(found.groups)}",)
    name = f"{measure} low, above random groups"
    return (Condition(name, found.estimate.low, max(found.groups), found.above_groups),), ()

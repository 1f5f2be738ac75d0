"""What carries a new ability: the measures of one fine-tune, as values.

They are measured in :mod:`circuitlapse.carriers.measure_carriers`; the modules that it calls have
the definitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured

Choice = Literal["old", "half", "double", "without_best"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
OTHER_VARIABLE = "the tasks' counterfactuals change different variables"
"""Why there is no variable_effect where the two tasks are about different things."""


@dataclass(frozen=True)
class SameDirections(Measured):
    """Whether the old-task heads still write in the directions of the old task.

    Attributes:
        rank: Directions of each head.
        old: What is undone in the directions of the base on the old task, in logits.
        own: In the tuned model's own directions on the new task.
        other: In another old-task head's directions.
    """

    rank: int = 0
    old: Estimate | None = None
    own: Estimate | None = None
    other: Estimate | None = None


@dataclass(frozen=True)
class OldHeads:
    """One choice of old-task heads, with its measures.

    Attributes:
        heads: Their names, in the model's order.
        undone: Share of the base's effect of the variable on the old task that patching all of them
            undoes.
        dependence: See :mod:`circuitlapse.carriers.dependence`.
        same_directions: See :mod:`circuitlapse.carriers.same_directions`.
        sufficiency: See :mod:`circuitlapse.carriers.transplants`.
    """

    heads: tuple[str, ...]
    undone: Measured = field(default_factory=Measured)
    dependence: Measured = field(default_factory=Measured)
    same_directions: SameDirections = field(default_factory=SameDirections)
    sufficiency: Measured = field(default_factory=Measured)


@dataclass(frozen=True)
class NewHeads:
    """Heads that the base uses on neither task, with their measures.

    Attributes:
        heads: Their names, in the model's order.
        necessity: See :mod:`circuitlapse.carriers.transplants`.
        sufficiency: Of the new heads alone. Of driving heads: together with the old-task heads,
            whose groups are the old-task heads with as many other heads.
    """

    heads: tuple[str, ...]
    necessity: Measured = field(default_factory=Measured)
    sufficiency: Measured = field(default_factory=Measured)


@dataclass(frozen=True)
class Carriers:
    """All measures of one fine-tune, on test prompts; heads are chosen on validation prompts.

    Attributes:
        improvement: G, the rise of v on the new task, in logits.
        variable_effect: See :mod:`circuitlapse.carriers.variable_effect`.
        old: The old-task heads.
        half: The half of them with the largest effects.
        double: Twice as many heads.
        without_best: Old-task heads that are found when the best half may not be chosen.
        no_heads: Sufficiency of the empty set: the zero of sufficiency.
        new: New heads, found by their patching effect.
        driving: New heads, found by what the tuned model loses with the base's outputs.
        late_writers: Old-task heads whose direct effect on the logits is most of their effect.
        early_directions: same_directions of the old-task heads without these.
        other_task: Dependence on another task's heads that are no old-task heads.
        other_heads: Their names.
    """

    improvement: Estimate
    variable_effect: Measured
    old: OldHeads
    half: OldHeads
    double: OldHeads
    without_best: OldHeads
    no_heads: Measured
    new: NewHeads
    driving: NewHeads
    late_writers: tuple[str, ...]
    early_directions: SameDirections
    other_task: Measured
    other_heads: tuple[str, ...] = ()

    def of_heads(self, choice: Choice) -> OldHeads:
        """Return one choice of old-task heads with its measures."""
        return getattr(self, choice)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per measure and set of heads: value, interval, groups, why not."""
        found: list[tuple[str, Sequence[str], str, Measured]] = [
            ("", (), "variable_effect", self.variable_effect),
            ("no_heads", (), "sufficiency", self.no_heads),
            ("other_task", self.other_heads, "dependence", self.other_task),
        ]
        for choice in CHOICES:
            old = self.of_heads(choice)
            found.append((choice, old.heads, "undone", old.undone))
            found.append((choice, old.heads, "dependence", old.dependence))
            found.append((choice, old.heads, "same_directions", old.same_directions))
            found.append((choice, old.heads, "sufficiency", old.sufficiency))
        early = tuple(head for head in self.old.heads if head not in self.late_writers)
        found.append(("early", early, "same_directions", self.early_directions))
        for name, new in (("new", self.new), ("driving", self.driving)):
            found.append((name, new.heads, "necessity", new.necessity))
            found.append((name, new.heads, "sufficiency", new.sufficiency))
        return [_row(*each) for each in found]

    def to_json(self) -> str:
        """Write all measures as JSON."""
        return _JSON.dump_json(self, indent=2).decode()

    @classmethod
    def of_json(cls, text: str) -> "Carriers":
        """Read what :meth:`to_json` wrote."""
        return _JSON.validate_json(text)


_JSON = TypeAdapter(Carriers)


def _row(heads: str, names: Sequence[str], measure: str, found: Measured) -> dict[str, Any]:
    groups = found.groups
    return {
        "heads": heads,
        "names": " ".join(names),
        "measure": measure,
        "value": found.estimate,
        "groups": list(groups),
        "n_random": len(groups),
        "null_min": min(groups, default=None),
        "null_max": max(groups, default=None),
        "above_groups": found.above_groups,
        "not_reported": found.not_reported,
    }

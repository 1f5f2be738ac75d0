"""What carries a new ability: the measures of one fine-tune, as values.

They are measured in :mod:`circuitlapse.two_models.measure_carriers`; the modules that it calls have
the definitions.
"""

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured


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
        dependence: See :mod:`circuitlapse.two_models.dependence`.
        same_directions: See :mod:`circuitlapse.two_models.same_directions`.
        sufficiency: See :mod:`circuitlapse.two_models.transplants`.
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
        necessity: See :mod:`circuitlapse.two_models.transplants`.
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
        variable_effect: See :mod:`circuitlapse.two_models.variable_effect`.
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

    def to_json(self) -> str:
        """Write all measures as JSON."""
        return _JSON.dump_json(self, indent=2).decode()

    @classmethod
    def of_json(cls, text: str) -> "Carriers":
        """Read what :meth:`to_json` wrote."""
        return _JSON.validate_json(text)


_JSON = TypeAdapter(Carriers)

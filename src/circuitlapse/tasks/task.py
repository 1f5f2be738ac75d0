"""A task: a family of prompts with one known answer each, and the ways to corrupt them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.ioi import draw_ioi, ioi_cases
from circuitlapse.tasks.items import Item
from circuitlapse.tasks.splits import check_split
from circuitlapse.tasks.validation import validate


@dataclass(frozen=True)
class Task:
    """What a task asks, and where its prompts come from.

    Attributes:
        name: Short name, such as ``ioi3``.
        question: What every prompt asks, in one sentence.
        families: Corruptions that change the answer, by family; a family's variants are averaged.
            Circuits of two tasks are compared under the same family.
        controls: Corruptions that must change nothing: their expected effect is 0, and they are
            never a denominator.
        positions: Names of the token positions that ``tokenize`` finds, ``END`` being the last.
        cases: The arrangements that are gone through in turn, for balance.
        draw: Makes one item from a source of randomness, a split and a case.
    """

    name: str
    question: str
    families: Mapping[str, tuple[str, ...]]
    controls: tuple[str, ...]
    positions: tuple[str, ...]
    cases: tuple[tuple[int, ...], ...]
    draw: Callable[[random.Random, str, tuple[int, ...]], Item]

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Every corruption that changes the answer, whatever its family."""
        return tuple(variant for family in self.families.values() for variant in family)

    def items(self, split: str, n: int, seed: int = 0) -> list[Item]:
        """Draw different items of one split, the same ones for the same arguments.

        Arrangements are balanced: any run of ``len(cases)`` items that starts at a multiple of it
        holds each once, in random order. A smaller ``n`` gives the beginning of a larger one.

        Args:
            split: ``train``, ``validation``, ``test``, ``validation_templates`` or
                ``test_templates``; see ``circuitlapse.tasks.splits``.
            n: How many.
            seed: Draws other items.

        Raises:
            CircuitlapseError: If there is no such split, ``n`` is not positive, or the split does
                not hold that many different items.
        """
        check_split(split)
        if n < 1:
            raise CircuitlapseError("the number of items must be at least 1", got=n)
        rng = random.Random(f"{self.name} {split} {seed}")
        items: dict[str, Item] = {}
        cases: list[tuple[int, ...]] = []
        while len(items) < n:
            if not cases:
                cases = rng.sample(self.cases, len(self.cases))
            case = cases.pop()
            for _ in range(1000):
                item = self.draw(rng, split, case)
                if item.prompt not in items:
                    break
            else:
                raise CircuitlapseError(
                    f"the split {split!r} of {self.name!r} does not hold that many items",
                    got=n,
                    fix=f"Ask for at most {len(items)}",
                )
            items[item.prompt] = item
        validate(items.values(), self.corruptions, self.controls)
        return list(items.values())


TASKS: dict[str, Task] = {
    "ioi2": Task(
        name="ioi2",
        question="Two people are listed and one of them acts: who is the recipient?",
        families={"subject": ("s_to_io",), "names": ("names",)},
        controls=("list_order",),
        positions=("IO", "S", "S_again", "END"),
        cases=tuple(ioi_cases(2)),
        draw=draw_ioi,
    ),
    "ioi3": Task(
        name="ioi3",
        question="Three people are listed and two of them act: who is the recipient?",
        families={"subject": ("s1_to_io", "s2_to_io"), "names": ("names",)},
        controls=("subject_order", "list_order"),
        positions=("IO", "S1", "S2", "S1_again", "S2_again", "END"),
        cases=tuple(ioi_cases(3)),
        draw=draw_ioi,
    ),
}


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        CircuitlapseError: If there is none.
    """
    if name not in TASKS:
        raise CircuitlapseError(
            "there is no such task", got=name, fix=f"Use one of {', '.join(TASKS)}"
        )
    return TASKS[name]

"""A task: prompts with known answers, and their counterfactuals."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.reference_task import (
    FIRST_NAMED,
    ReferenceRule,
    known_candidates,
    with_rule,
)
from circuitlapse.tasks.splits import check_split
from circuitlapse.tasks.validation import Solve, names_of, validate
from circuitlapse.tasks.words import Pools, check_known, check_pools, pools_for

Case = tuple[int, ...]


@dataclass(frozen=True)
class Task(ABC):
    """What a task asks, and where its prompts come from.

    Attributes:
        name: Short name, such as ``ioi3``.
        question: What every prompt asks, in one sentence.
        families: Counterfactuals that change the answer, by family; a family's variants are
            averaged. Circuits of two tasks are compared under the same family.
        invariance: Counterfactuals that must change nothing (invariance checks). Their expected
            effect is 0, and they are never a denominator.
        positions: Names of the token positions that ``tokenize`` finds, ``END`` being the last.
        reference: The rule of the reference task, which has the same prompts.
    """

    name: str
    question: str
    families: Mapping[str, tuple[str, ...]]
    invariance: tuple[str, ...]
    positions: tuple[str, ...]
    reference: ReferenceRule = field(default=FIRST_NAMED, kw_only=True)

    @property
    def counterfactuals(self) -> tuple[str, ...]:
        """Every counterfactual that changes the answer, whatever its family."""
        return tuple(variant for family in self.families.values() for variant in family)

    def items(
        self,
        split: str,
        n: int,
        seed: int = 0,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> list[Item]:
        """Return different items of one split, the same ones for the same arguments.

        A smaller ``n`` gives the beginning of a larger one.

        Args:
            split: ``train``, ``validation``, ``test``, ``validation_templates`` or
                ``test_templates``; see ``circuitlapse.tasks.splits``.
            n: How many.
            seed: Draws other items.
            tokenizer: The model's: names, objects, places and numbers are then chosen so that each
                is one token in it. GPT-2's changes nothing.

        Raises:
            CircuitlapseError: If there is no such split, ``n`` is not positive, the split does
                not hold that many different items, or the task cannot be built for the
                tokenizer.
        """
        check_split(split)
        if n < 1:
            raise CircuitlapseError("the number of items must be at least 1", got=n)
        return self._items(split, n, seed, tokenizer)

    def n_items(self, split: str) -> int | None:
        """Return how many items a split holds; None where they are generated as needed."""
        return None

    def reference_items(self, items: Sequence[Item]) -> list[Item]:
        """Return the same prompts with the answers of the reference rule, ``reference``.

        Candidates stay the same, and so do the counterfactual prompts, most of which do not change
        the rule's answer. ``bits_ratio`` divides by the bits that learning these items takes.

        Args:
            items: Items of this task.

        Raises:
            CircuitlapseError: If a prompt names no candidate, or the rule solves the task itself.
        """
        return with_rule(items, self.reference, self._candidates_after)

    def _candidates_after(self, item: Item, key: str) -> Sequence[str]:
        """Return the candidates of a counterfactual, or none if they are not known."""
        return known_candidates(item, key)

    @abstractmethod
    def _items(
        self, split: str, n: int, seed: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[Item]: ...


@dataclass(frozen=True)
class GeneratedTask(Task):
    """A task whose prompts are generated from templates.

    Cases are balanced: any run of ``len(cases)`` items that starts at a multiple of it has each
    once, in random order.

    Attributes:
        draw: Makes one item of a case.
        solve: Works out the answer from a finished prompt alone; every item is checked by it.
        needs: Number of words that it takes, by slot.
        cases: Arrangements of the people, such as orders of the list.
    """

    draw: Callable[[random.Random, str, Case, Pools], Item]
    solve: Solve
    needs: Mapping[str, int]
    cases: tuple[Case, ...] = ((),)

    def _items(
        self, split: str, n: int, seed: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[Item]:
        pools = pools_for(tokenizer)
        check_pools(self.name, pools, self.needs)
        rng = random.Random(f"{self.name} {split} {seed}")
        items: dict[str, Item] = {}
        cases: list[Case] = []
        while len(items) < n:
            if not cases:
                cases = rng.sample(self.cases, len(self.cases))
            case = cases.pop()
            for _ in range(1000):
                item = self.draw(rng, split, case, pools)
                if item.prompt not in items:
                    break
            else:
                raise CircuitlapseError(
                    f"the split {split!r} of {self.name!r} does not hold that many items",
                    got=n,
                    fix=f"Ask for at most {len(items)}",
                )
            items[item.prompt] = item
        if tokenizer is not None:
            check_known(self.name, items, tokenizer)
        validate(items.values(), self.counterfactuals, self.invariance, self.solve)
        return list(items.values())

    def _candidates_after(self, item: Item, key: str) -> Sequence[str]:
        found = self.solve(item.corrupt[key], names_of(item))
        return sorted(found.right | found.wrong)

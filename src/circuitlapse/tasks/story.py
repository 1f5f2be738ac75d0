"""Tasks told in sentences about named people.

A story's text has slots. ``{list}`` names the listed people ("A, B and C"), or ``{1}``, ``{2}``,
``{3}`` name them one by one; ``{ROLE}`` names whoever has that role, ``{n1}`` is the number of the
first listed, and any other slot, such as ``{room}``, takes a word from the pool of that name. A
counterfactual puts another role into a slot, so that both prompts differ in these words only.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

from circuitlapse.records.items import Item
from circuitlapse.tasks.splits import draw_names, held_out
from circuitlapse.tasks.task import Case, GeneratedTask
from circuitlapse.tasks.templates import listing
from circuitlapse.tasks.validation import Solve
from circuitlapse.tasks.words import POOLS, Pools

#: Alternative wordings of one part of a text, by the split of templates that they belong to.
Part = Mapping[str, tuple[str, ...]]
SOMEONE = "SOMEONE"
"""The role of a person who is not in the clean prompt."""


@dataclass(frozen=True)
class Change:
    """Role by slot (``N_ROLE`` is a role's number), and the role whose name is then the answer."""

    slots: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class Story:
    """The declaration of a task.

    Attributes:
        parts: One wording of each is drawn. The first part begins with an ordinary word, so that a
            name always has a space before it.
        answer: The role whose name comes next; the others are the distractors.
        families: Counterfactuals by family and variant. The family ``names`` is added.
        invariance: Role by slot, by check. ``list_order`` is added where people are listed.
        listed: Roles that ``{list}`` or ``{1}`` … name, in every order in turn.
        numbered: Roles that have a number, the largest first.
        positions: A role where it is first named, ``ROLE_again`` where it is named the second time,
            ``N_ROLE`` for its number.
    """

    name: str
    question: str
    parts: tuple[Part, ...]
    roles: tuple[str, ...]
    answer: str
    solve: Solve
    families: Mapping[str, Mapping[str, Change]]
    positions: tuple[str, ...]
    invariance: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()

    def task(self) -> GeneratedTask:
        """Return the task that this declares."""
        families = {family: tuple(variants) for family, variants in self.families.items()}
        order = ("list_order",) if self.listed else ()
        return GeneratedTask(
            name=self.name,
            question=self.question,
            families={**families, "names": ("names",)},
            invariance=(*self.invariance, *order),
            positions=(*self.positions, "END"),
            cases=tuple(permutations(range(len(self.listed)))),
            draw=self._draw,
            solve=self.solve,
            needs=self._needs(),
        )

    def _needs(self) -> dict[str, int]:
        texts = " ".join(text for part in self.parts for group in part.values() for text in group)
        numbers = {"number": len(self.numbered)} if self.numbered else {}
        # The counterfactual ``names`` replaces everyone.
        return {"name": 2 * len(self.roles), **numbers, **dict.fromkeys(_pools(texts), 1)}

    def _draw(self, rng: random.Random, split: str, case: Case, pools: Pools) -> Item:
        _, templates = held_out(split)
        chosen = [rng.randrange(len(part[templates])) for part in self.parts]
        wordings = zip(self.parts, chosen, strict=True)
        text = " ".join(part[templates][index] for part, index in wordings)
        drawn = draw_names(rng, len(self.roles), split, among=pools["name"])
        others = draw_names(rng, len(self.roles), split, unlike=drawn, among=pools["name"])
        words = {slot: rng.choice(pools[slot]) for slot in _pools(text)}
        numbers = sorted(rng.sample(range(len(pools["number"])), len(self.numbered)), reverse=True)
        for role, index in zip(self.numbered, numbers, strict=True):
            words[f"N_{role}"] = pools["number"][index]
        replaced = words | dict(zip(self.roles, others, strict=True))
        words |= dict(zip((*self.roles, SOMEONE), (*drawn, others[0]), strict=True))
        order = tuple(self.listed[i] for i in case)

        prompt, spans = self._fill(text, order, words, {})
        changes = {key: one for family in self.families.values() for key, one in family.items()}
        answers = {key: words[change.answer] for key, change in changes.items()}
        slots = {key: change.slots for key, change in changes.items()}
        corrupt = {key: self._fill(text, order, words, one)[0] for key, one in slots.items()}
        corrupt["names"], _ = self._fill(text, order, replaced, {})
        answers["names"] = replaced[self.answer]
        for check, checked in self.invariance.items():
            corrupt[check], _ = self._fill(text, order, words, checked)
        if self.listed:
            other = rng.choice([o for o in permutations(order) if o != order])
            corrupt["list_order"], _ = self._fill(text, other, words, {})
        answer = words[self.answer]
        return Item(
            prompt=prompt,
            answer=f" {answer}",
            distractors=tuple(f" {words[role]}" for role in self.roles if role != self.answer),
            names=tuple(words[role] for role in dict.fromkeys((*order, *self.roles))),
            template=self._template(templates, chosen),
            split=split,
            spans={label: spans[label] for label in self.positions},
            corrupt=corrupt,
            corrupt_answers={key: f" {answers.get(key, answer)}" for key in corrupt},
        )

    def _template(self, templates: str, chosen: list[int]) -> str:
        """Name the chosen wordings, such as ``a03.b11``: unlike between splits."""
        names = []
        for letter, part, index in zip("abcdefgh", self.parts, chosen, strict=False):
            before = list(part)[: list(part).index(templates)]
            names.append(f"{letter}{sum(len(part[split]) for split in before) + index:02d}")
        return ".".join(names)

    def _fill(
        self, text: str, order: tuple[str, ...], words: Mapping[str, str], slots: Mapping[str, str]
    ) -> tuple[str, dict[str, tuple[int, int]]]:
        """Fill a text in, and return the characters of each role."""
        one_by_one = listing([f"{{{i + 1}}}" for i in range(len(order))])
        numbered = {str(i + 1): role for i, role in enumerate(order)}
        filled, spans = "", {}
        for piece in re.split(r"(\{\w+\})", text.replace("{list}", one_by_one)):
            if not piece.startswith("{"):
                filled += piece
                continue
            slot = piece[1:-1]
            if slot.startswith("n") and slot[1:] in numbered:
                slot = f"N_{numbered[slot[1:]]}"
            role = numbered.get(slot) or slots.get(slot, slot)
            label = role if role not in spans else f"{role}_again"
            spans.setdefault(label, (len(filled), len(filled) + len(words[role])))
            filled += words[role]
        return filled, spans


def _pools(text: str) -> list[str]:
    return [slot for slot in dict.fromkeys(re.findall(r"\{(\w+)\}", text)) if slot in POOLS]


def with_slot(part: Part, slot: str, by: str) -> Part:
    """Return a part with one slot's text replaced, such as ``{LEAVES}`` by ``{A} and {B}``."""
    return {
        split: tuple(text.replace(f"{{{slot}}}", by) for text in texts)
        for split, texts in part.items()
    }

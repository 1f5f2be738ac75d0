"""Indirect object identification with two names (the old task) and three (the new one).

Two names: "Then, Mary and John went to the store. John gave a drink to" is followed by "Mary"
(Wang et al. 2022). Three names: "Then, Mary, John and Tom went to the store. John and Tom gave a
drink to" is followed by "Mary". IO is the recipient, S (or S1 and S2, in the order in which they
act) are the subjects.
"""

import random
import re
from itertools import permutations

from circuitlapse.tasks.items import Item
from circuitlapse.tasks.splits import draw_names
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS, render
from circuitlapse.tasks.words import OBJECTS, PLACES


def ioi_cases(n_names: int) -> list[tuple[int, ...]]:
    """List every arrangement of a prompt: where in the list IO and the subjects stand.

    Each arrangement holds the list positions of IO and of the subjects in acting order, so that
    going through all of them balances the answer's position and the order of the subjects.
    """
    return list(permutations(range(n_names)))


def draw_ioi(rng: random.Random, split: str, case: tuple[int, ...]) -> Item:
    """Draw one item.

    Args:
        rng: Source of randomness.
        split: Any of ``SPLITS``.
        case: An arrangement from ``ioi_cases``; its length says how many names there are.
    """
    templates = split if split.endswith("_templates") else "train"
    opening = rng.choice(OPENINGS[templates])
    continuation = rng.choice(CONTINUATIONS[templates])
    place, obj = rng.choice(PLACES), rng.choice(OBJECTS)
    names = draw_names(rng, len(case), split)
    others = dict(zip(names, draw_names(rng, len(case), split, unlike=names), strict=True))
    orders = [order for order in permutations(names) if order != names]
    io, *rest = (names[i] for i in case)
    subjects = tuple(rest)

    def prompt(listed: tuple[str, ...], acting: tuple[str, ...]) -> str:
        return render(opening, continuation, listed, acting, place, obj)

    def renamed(group: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(others[name] for name in group)

    clean = prompt(names, subjects)
    versions: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]]
    if len(subjects) == 1:
        versions = {"s_to_io": (names, (io,), subjects[0])}
    else:
        first, second = subjects
        versions = {
            "s1_to_io": (names, (io, second), first),
            "s2_to_io": (names, (first, io), second),
            "subject_order": (names, (second, first), io),
        }
    versions["names"] = (renamed(names), renamed(subjects), others[io])
    versions["list_order"] = (rng.choice(orders), subjects, io)
    return Item(
        prompt=clean,
        answer=f" {io}",
        distractors=tuple(f" {name}" for name in subjects),
        names=names,
        template=f"{opening.id}.{continuation.id}",
        split=split,
        spans=_spans(clean, io, subjects),
        corrupt={key: prompt(listed, acting) for key, (listed, acting, _) in versions.items()},
        corrupt_answers={key: f" {answer}" for key, (_, _, answer) in versions.items()},
    )


def _spans(prompt: str, io: str, subjects: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    labels = ("S",) if len(subjects) == 1 else ("S1", "S2")
    spans = {"IO": _mentions(prompt, io)[0]}
    for label, name in zip(labels, subjects, strict=True):
        spans[label] = _mentions(prompt, name)[0]
    for label, name in zip(labels, subjects, strict=True):
        spans[f"{label}_again"] = _mentions(prompt, name)[1]
    return spans


def _mentions(prompt: str, name: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(rf"\b{name}\b", prompt)]

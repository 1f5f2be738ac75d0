"""Indirect object identification with two names (the old task) and three (the new one).

Two names: "Then, Mary and John went to the store. John gave a drink to" is followed by "Mary"
(Wang et al. 2022). Three names: "Then, Mary, John and Tom went to the store. John and Tom gave a
drink to" is followed by "Mary". IO is the recipient, S (or S1 and S2, in the order in which they
act) are the subjects.
"""

import random
import re
from itertools import permutations

from circuitlapse.records.items import Item
from circuitlapse.tasks.splits import draw_names, held_out
from circuitlapse.tasks.task import Case, GeneratedTask
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS, render
from circuitlapse.tasks.validation import recipient
from circuitlapse.tasks.words import Pools


def _draw(rng: random.Random, split: str, case: Case, pools: Pools) -> Item:
    """Draw one item; a case says where in the list IO and the subjects, as they act, stand."""
    _, templates = held_out(split)
    opening = rng.choice(OPENINGS[templates])
    continuation = rng.choice(CONTINUATIONS[templates])
    place, obj = rng.choice(pools["place"]), rng.choice(pools["object"])
    names = draw_names(rng, len(case), split, among=pools["name"])
    new = draw_names(rng, len(case), split, unlike=names, among=pools["name"])
    others = dict(zip(names, new, strict=True))
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


TASKS = (
    GeneratedTask(
        name="ioi2",
        question="Two people are listed and one of them acts: who is the recipient?",
        families={"subject": ("s_to_io",), "names": ("names",)},
        invariance=("list_order",),
        positions=("IO", "S", "S_again", "END"),
        cases=tuple(permutations(range(2))),
        draw=_draw,
        solve=recipient,
        needs={"name": 4, "place": 1, "object": 1},
    ),
    GeneratedTask(
        name="ioi3",
        question="Three people are listed and two of them act: who is the recipient?",
        families={"subject": ("s1_to_io", "s2_to_io"), "names": ("names",)},
        invariance=("subject_order", "list_order"),
        positions=("IO", "S1", "S2", "S1_again", "S2_again", "END"),
        cases=tuple(permutations(range(3))),
        draw=_draw,
        solve=recipient,
        needs={"name": 6, "place": 1, "object": 1},
    ),
)

"""Indirect object identification with two names (the old task) and three (the new one).

Two names: "Then, Mary and John went to the store. John gave a drink to" is followed by "Mary"
(Wang et al. 2022). Three names: "Then, Mary, John and Tom went to the store. John and Tom gave a
drink to" is followed by "Mary". IO is the recipient, S (or S1 and S2, in the order in which they
act) are the subjects.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

from circuitlapse.records.items import Item
from circuitlapse.tasks.splits import draw_names, held_out
from circuitlapse.tasks.task import Case, GeneratedTask
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS, render
from circuitlapse.tasks.validation import recipient
from circuitlapse.tasks.words import Pools


def _draw(rng: random.Random, split: str, case: Case, pools: Pools) -> Item:
    """Draw one item; a case has the list positions of IO and of the subjects, as they act."""
    _, templates = held_out(split)
    opening = rng.choice(OPENINGS[templates])
    continuation = rng.choice(CONTINUATIONS[templates])
    place, obj = rng.choice(pools["place"]), rng.choice(pools["object"])
    names = draw_names(rng, len(case), split, among=pools["name"])
    new = draw_names(rng, len(case), split, unlike=names, among=pools["name"])
    subjects = tuple(names[i] for i in case[1:])

    def text(in_list: Mapping[str, str], later: Mapping[str, str]) -> str:
        listed = tuple(in_list.get(name, name) for name in names)
        acting = tuple(later.get(name, name) for name in subjects)
        return render(opening, continuation, listed, acting, place, obj)

    clean = text({}, {})
    at = {name: [found.span() for found in re.finditer(rf"\b{name}\b", clean)] for name in names}
    return ioi_item(
        text,
        {name: at[name][0] for name in names},
        {name: at[name][1] for name in subjects},
        others=dict(zip(names, new, strict=True)),
        reordered=rng.choice([order for order in permutations(names) if order != names]),
        template=f"{opening.id}.{continuation.id}",
        split=split,
    )


def ioi_item(
    text: Callable[[Mapping[str, str], Mapping[str, str]], str],
    listed: Mapping[str, tuple[int, int]],
    acting: Mapping[str, tuple[int, int]],
    *,
    others: Mapping[str, str],
    reordered: Sequence[str],
    template: str,
    split: str = "",
) -> Item:
    """Build an item with all counterfactuals and invariance checks of ``ioi2`` or ``ioi3``.

    ``text`` returns the prompt, with some names exchanged in the list and some after it. ``listed``
    and ``acting`` give the characters of each name in the list and as a subject. ``others``
    replaces every name, and ``reordered`` is another order of the list.
    """
    names, subjects = tuple(listed), tuple(acting)
    (io,) = set(names) - set(subjects)
    labels = dict(zip(("S",) if len(subjects) == 1 else ("S1", "S2"), subjects, strict=True))
    versions: dict[str, tuple[Mapping[str, str], Mapping[str, str], str]] = {
        f"{label.lower()}_to_io": ({}, {name: io, io: name}, name) for label, name in labels.items()
    }
    if len(subjects) == 2:
        versions["subject_order"] = ({}, dict(zip(subjects, subjects[::-1], strict=True)), io)
    versions["names"] = (others, others, others[io])
    versions["list_order"] = (dict(zip(names, reordered, strict=True)), {}, io)
    spans = {"IO": listed[io]} | {label: listed[name] for label, name in labels.items()}
    return Item(
        prompt=text({}, {}),
        answer=f" {io}",
        distractors=tuple(f" {name}" for name in subjects),
        names=names,
        template=template,
        split=split,
        spans=spans | {f"{label}_again": acting[name] for label, name in labels.items()},
        corrupt={key: text(in_list, later) for key, (in_list, later, _) in versions.items()},
        corrupt_answers={key: f" {answer}" for key, (_, _, answer) in versions.items()},
    )


def _task(name: str, question: str, subjects: tuple[str, ...]) -> GeneratedTask:
    orders = ("subject_order", "list_order") if len(subjects) > 1 else ("list_order",)
    return GeneratedTask(
        name=name,
        question=question,
        families={"subject": tuple(f"{s.lower()}_to_io" for s in subjects), "names": ("names",)},
        invariance=orders,
        positions=("IO", *subjects, *(f"{subject}_again" for subject in subjects), "END"),
        cases=tuple(permutations(range(1 + len(subjects)))),
        draw=_draw,
        solve=recipient,
        needs={"name": 2 + 2 * len(subjects), "place": 1, "object": 1},
    )


TASKS = (
    _task("ioi2", "Two people are listed and one of them acts: who is the recipient?", ("S",)),
    _task(
        "ioi3", "Three people are listed and two of them act: who is the recipient?", ("S1", "S2")
    ),
)

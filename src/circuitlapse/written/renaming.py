"""Make a task's item of a prompt that was read: positions, distractors and counterfactuals.

Counterfactuals are the same text with names exchanged. Each is read again. All items of a task need
the same ones, so a prompt without one of them cannot be used.
"""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from itertools import permutations

from circuitlapse.records.items import Item
from circuitlapse.tasks.words import NAMES
from circuitlapse.written.recipient import ItemError, Name, Reading, WrittenTask, recipient_of

# After an exchange of names, "her drink" could be another person's.
_GENDERED = re.compile(r"\b(?:he|him|his|himself|she|her|hers|herself)\b", re.IGNORECASE)


def to_item(reading: Reading, task: WrittenTask) -> Item:
    """Return the item of a prompt, always the same one for the same prompt.

    Its ``template`` is ``w`` and a hash of the wording without the names. Its ``split`` is empty,
    so that a task file gives it one by its names and template.

    Raises:
        ItemError: If a counterfactual does not have its answer as its single recipient.
    """
    if gendered := _GENDERED.search(reading.prompt):
        raise ItemError("counterfactual", f"{gendered[0]!r} may not fit exchanged names")
    names, acting = ([name.text for name in part] for part in (reading.listed, reading.acting))
    versions = _versions(reading, names, acting)
    for key, (text, answer) in versions.items():
        try:
            recipient_of(text, answer, task)
        except ItemError as error:
            raise ItemError("counterfactual", f"{key}: {error}") from error
    everywhere = [*reading.listed, *reading.mentions]
    wording = _renamed(reading.prompt, everywhere, dict.fromkeys(names, "{}"))
    labels = ["S"] if len(acting) == 1 else ["S1", "S2"]
    first = {name.text: (name.start, name.end) for name in reading.listed}
    spans = {"IO": first[reading.recipient]} | {
        label: first[name] for label, name in zip(labels, acting, strict=True)
    }
    for label, name in zip(labels, reading.acting, strict=True):
        spans[f"{label}_again"] = (name.start, name.end)
    return Item(
        prompt=reading.prompt,
        answer=f" {reading.recipient}",
        distractors=tuple(f" {name}" for name in acting),
        names=tuple(names),
        template=f"w{hashlib.sha256(wording.encode()).hexdigest()[:10]}",
        split="",
        spans=spans,
        corrupt={key: text for key, (text, _) in versions.items()},
        corrupt_answers={key: f" {answer}" for key, (_, answer) in versions.items()},
    )


def _versions(reading: Reading, names: list[str], acting: list[str]) -> dict[str, tuple[str, str]]:
    """Return text and answer of every counterfactual and invariance check, by its name."""
    prompt, io, rng = reading.prompt, reading.recipient, random.Random(reading.prompt)
    reordered = rng.choice([order for order in permutations(names) if list(order) != names])
    unused = [name for name in NAMES if name not in re.findall(r"\w+", prompt)]
    others = dict(zip(names, rng.sample(unused, len(names)), strict=True))
    labels = ["s"] if len(acting) == 1 else ["s1", "s2"]
    versions = {
        f"{label}_to_io": (_renamed(prompt, reading.mentions, {name: io, io: name}), name)
        for label, name in zip(labels, acting, strict=True)
    }
    if len(acting) == 2:
        swap = dict(zip(acting, acting[::-1], strict=True))
        versions["subject_order"] = (_renamed(prompt, reading.mentions, swap), io)
    everywhere = [*reading.listed, *reading.mentions]
    versions["names"] = (_renamed(prompt, everywhere, others), others[io])
    order = dict(zip(names, reordered, strict=True))
    return versions | {"list_order": (_renamed(prompt, reading.listed, order), io)}


def _renamed(prompt: str, places: Iterable[Name], to: Mapping[str, str]) -> str:
    for name in sorted(places, key=lambda name: name.start, reverse=True):
        prompt = prompt[: name.start] + to.get(name.text, name.text) + prompt[name.end :]
    return prompt

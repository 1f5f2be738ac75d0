"""Make a task's item of a prompt that was read: spans, distractors and corrupt partners.

Partners are the same text with names swapped, so that nothing but one causal variable differs. Each
is read again, and left out where it no longer says what it should. A prompt with a pronoun of one
gender keeps the ``list_order`` control only: behind swapped names, "her drink" would be another's.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping
from itertools import permutations

from circuitlapse.records.items import Item
from circuitlapse.tasks.words import NAMES
from circuitlapse.tasks.written import grammar
from circuitlapse.tasks.written.judge import Reading, WrittenTask, judge
from circuitlapse.tasks.written.names import Word, words_of
from circuitlapse.tasks.written.reason import ItemError

SPLIT = "written"  # no split of the templates' holds these names and wordings


def to_item(reading: Reading, task: WrittenTask) -> Item:
    """Return the item of a prompt, the same one for the same prompt.

    Its ``template`` is ``w`` and a hash of the wording without the names, so that items that differ
    in names alone can be kept on one side of a split. Its ``split`` is ``written``.

    Args:
        reading: A prompt that :func:`judge` accepted.
        task: The task that it was judged for.
    """
    prompt, names = reading.prompt, tuple(word.text for word in reading.listed)
    io = reading.recipient
    subjects = tuple(dict.fromkeys(word.text for word in reading.subjects))
    versions = _versions(reading, names, subjects)
    kept = {key: text for key, (text, answer) in versions.items() if _says(text, answer, task)}
    return Item(
        prompt=prompt,
        answer=f" {io}",
        distractors=tuple(f" {name}" for name in subjects),
        names=names,
        template=_wording(reading),
        split=SPLIT,
        spans=_spans(reading, subjects),
        corrupt=kept,
        corrupt_answers={key: f" {versions[key][1]}" for key in kept},
    )


def _versions(
    reading: Reading, names: tuple[str, ...], subjects: tuple[str, ...]
) -> dict[str, tuple[str, str]]:
    """Text and answer of every corruption and control, by its name."""
    prompt, io = reading.prompt, reading.recipient
    rng = random.Random(prompt)
    orders = [order for order in permutations(names) if order != names]
    reordered = dict(zip(names, rng.choice(orders), strict=True))
    versions: dict[str, tuple[str, str]] = {}
    if not any(word.text.lower() in grammar.GENDERED for word in words_of(prompt)):
        labels = ["s"] if len(subjects) == 1 else [f"s{i}" for i in range(1, len(subjects) + 1)]
        for label, subject in zip(labels, subjects, strict=True):
            swap = {subject: io, io: subject}
            versions[f"{label}_to_io"] = (_renamed(prompt, reading.mentions, swap), subject)
        if len(subjects) == 2:
            swap = {subjects[0]: subjects[1], subjects[1]: subjects[0]}
            versions["subject_order"] = (_renamed(prompt, reading.mentions, swap), io)
        used = {word.text for word in words_of(prompt)}
        unlike = [name for name in NAMES if name not in used]
        others = dict(zip(names, rng.sample(unlike, len(names)), strict=True))
        everywhere = [*reading.listed, *reading.mentions]
        versions["names"] = (_renamed(prompt, everywhere, others), others[io])
    versions["list_order"] = (_renamed(prompt, reading.listed, reordered), io)
    return versions


def _renamed(prompt: str, places: Iterable[Word], to: Mapping[str, str]) -> str:
    for word in sorted(places, key=lambda word: word.start, reverse=True):
        prompt = prompt[: word.start] + to.get(word.text, word.text) + prompt[word.end :]
    return prompt


def _says(text: str, answer: str, task: WrittenTask) -> bool:
    try:
        return judge(text, answer, task).recipient == answer
    except ItemError:
        return False


def _spans(reading: Reading, subjects: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    labels = ("S",) if len(subjects) == 1 else ("S1", "S2")
    first = {word.text: (word.start, word.end) for word in reading.listed}
    acting = {word.text: (word.start, word.end) for word in reading.subjects}
    spans = {"IO": first[reading.recipient]}
    spans |= {label: first[name] for label, name in zip(labels, subjects, strict=True)}
    again = {f"{label}_again": acting[name] for label, name in zip(labels, subjects, strict=True)}
    return spans | again


def _wording(reading: Reading) -> str:
    places = [*reading.listed, *reading.mentions]
    blanked = _renamed(reading.prompt, places, {word.text: "{}" for word in places})
    return f"w{hashlib.sha256(blanked.encode()).hexdigest()[:10]}"

"""One prompt with its answer, as it is written to ``tasks/*.jsonl``.

Rules that need no understanding of a prompt, and where they are right.

An accuracy says that a model does a task only as far as it lies above what such rules reach on the
same prompts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import Store
from circuitlapse.shapes import Bool


class Item(BaseModel):
    """A clean prompt, its answer, and the prompts that differ from it in one causal variable.

    Attributes:
        prompt: The clean prompt; the answer comes right after it.
        answer: The right continuation, with the space before it (``" Mary"``).
        also: Other right continuations, where there are several (a larger year); none for most.
        distractors: The wrong candidates that the metric compares with, spelt like ``answer``.
        names: Everyone named, those of the list first and in its order, without spaces.
        template: Opening and continuation, such as ``o03.c11``.
        split: The split that it was drawn for.
        spans: Start and end of named words in ``prompt``, in characters (``IO``, ``S1`` …).
        corrupt: Prompt by name of the counterfactual or invariance check.
        corrupt_answers: The right continuation of each of those prompts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    answer: str
    also: tuple[str, ...] = ()
    distractors: tuple[str, ...]
    names: tuple[str, ...]
    template: str
    split: str
    spans: dict[str, tuple[int, int]]
    corrupt: dict[str, str]
    corrupt_answers: dict[str, str]


_PLACES = {2: ("first", "last"), 3: ("first", "middle", "last")}


def shortcut_hits(items: Sequence[Item]) -> dict[str, Bool[np.ndarray, " prompts"]]:
    """Say for each rule on which prompts it names a right answer.

    The candidates of a prompt are its answers and its distractors.

    - ``first listed``, ``middle listed``, ``last listed``: always the candidate at that place,
      places being those in which the candidates come up first; only the outer ones where prompts
      have other than three candidates.
    - ``most frequent answer``: always the one that is right most often, counted on these very
      prompts and therefore at least as good as one that was learnt from others.
    - ``last mentioned``: the candidate that stands nearest to the end.

    Args:
        items: At least one, all of one task. Rules about places are left out where a candidate is
            not in its prompt, as no number is in a question about numbers.

    Returns:
        By rule, ``[prompts]``.
    """
    right = [{answer.strip() for answer in (item.answer, *item.also)} for item in items]
    counted = Counter(answer for answers in right for answer in answers)
    most = min(counted, key=lambda answer: (-counted[answer], answer))
    said = [mentions(item.prompt, candidates(item)) for item in items]
    listed = [list(dict.fromkeys(words)) for words in said]
    named: dict[str, list[str]] = {}
    if all(set(candidates(item)) == set(words) for item, words in zip(items, listed, strict=True)):
        places = _PLACES.get(max(map(len, listed)), _PLACES[2])
        for index, place in zip((0, 1, -1) if len(places) == 3 else (0, -1), places, strict=True):
            named[f"{place} listed"] = [words[index] for words in listed]
    named["most frequent answer"] = [most] * len(items)
    if "first listed" in named:
        named["last mentioned"] = [words[-1] for words in said]
    return {
        rule: np.array([word in answers for word, answers in zip(words, right, strict=True)])
        for rule, words in named.items()
    }


_WHOLE_WORDS = re.compile(r"(?<!\w)\w+(?![\w-])")


def candidates(item: Item) -> list[str]:
    """Return an item's right and wrong answers without spaces, each once."""
    return list(dict.fromkeys(w.strip() for w in (item.answer, *item.also, *item.distractors)))


def mentions(text: str, words: Sequence[str]) -> list[str]:
    """List whichever of the words a text has, as they come; repeated ones repeatedly."""
    if all(word.isalnum() for word in words):  # to compile a pattern takes a hundred times as long
        return [word for word in _WHOLE_WORDS.findall(text) if word in words]
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.findall(rf"(?<!\w)(?:{either})(?![\w-])", text)


def read_items(content: bytes) -> list[Item]:
    """Read a task's items from JSON lines."""
    return [Item.model_validate_json(line) for line in content.splitlines()]


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write a task's items as JSON lines."""
    path.write_text("".join(item.model_dump_json() + "\n" for item in items), encoding="utf-8")


def check_apart(store: Store, trained: str, tested: str) -> None:
    """Refuse to evaluate on what was trained on.

    Raises:
        CircuitlapseError: With the first test prompt that is among the training prompts, and the
            lines of both.
    """
    lines = {item.prompt: number for number, item in enumerate(read_items(store.read(trained)), 1)}
    for number, item in enumerate(read_items(store.read(tested)), 1):
        if item.prompt in lines:
            raise CircuitlapseError(
                f"{Path(tested).name}, line {number}: this test prompt is trained on too, in "
                f"{Path(trained).name}, line {lines[item.prompt]}",
                got=item.prompt,
                fix="Give the old and the new task items that differ, and each item one split",
            )

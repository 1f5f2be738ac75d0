"""Every item is checked before anything is computed from it.

The checks read the finished prompts, not the recipe they were made from: an item whose text does
not determine its answer is refused, whoever wrote it. Whether words are single tokens depends on
the tokenizer and is checked by ``tokenize``.
"""

import re
from collections.abc import Collection, Iterable

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.items import Item
from circuitlapse.tasks.words import NAMES

_KNOWN = frozenset(NAMES)


def determine_answer(prompt: str, names: Collection[str]) -> str:
    """Return the one name that an IOI prompt leaves as recipient.

    All the names must be listed once, and then all but one of them named again.

    Args:
        prompt: Text that ends right before the answer.
        names: Every word that counts as a name.

    Raises:
        CircuitlapseError: If no name, or more than one, is left.
    """
    found = [word for word in re.findall(r"[A-Z]\w*", prompt) if word in names]
    listed = list(dict.fromkeys(found))
    again = found[len(listed) :]
    left = [name for name in listed if name not in again]
    if (
        len(listed) < 2
        or found[: len(listed)] != listed
        or len(set(again)) != len(again)
        or len(left) != 1
    ):
        raise CircuitlapseError(
            "the prompt does not determine one answer",
            got=prompt,
            fix="List every name once, then name all of them but one again",
        )
    return left[0]


def validate(items: Iterable[Item], changes: Collection[str], controls: Collection[str]) -> None:
    """Check that every item asks what it says it asks.

    Args:
        items: What to check.
        changes: Corruptions after which the answer must be another one.
        controls: Corruptions after which the answer must stay.

    Raises:
        CircuitlapseError: At the first item that is wrong, with its prompt.
    """
    for item in items:
        names = _KNOWN | set(item.names)
        _agree(item, "answer", item.answer, determine_answer(item.prompt, names))
        expected = {f" {name}" for name in item.names} - {item.answer}
        if set(item.distractors) != expected or len(item.distractors) != len(expected):
            raise _wrong(item, "the distractors must be the other listed names")
        for label, (start, end) in item.spans.items():
            if item.prompt[start:end] not in item.names:
                raise _wrong(item, f"the span {label!r} must cover a listed name")
        wanted = {*changes, *controls}
        if set(item.corrupt) != wanted or set(item.corrupt_answers) != wanted:
            raise _wrong(item, f"an item of this task has the corruptions {sorted(wanted)}")
        for key, prompt in item.corrupt.items():
            if prompt == item.prompt:
                raise _wrong(item, f"the corruption {key!r} changes nothing")
            answer = item.corrupt_answers[key]
            _agree(item, f"answer under {key!r}", answer, determine_answer(prompt, names))
            if key in changes and answer == item.answer:
                raise _wrong(item, f"the corruption {key!r} must change the answer")
            if key in controls and answer != item.answer:
                raise _wrong(item, f"the control {key!r} must keep the answer")


def _agree(item: Item, what: str, stated: str, found: str) -> None:
    if stated != f" {found}":
        raise _wrong(item, f"the {what} is stated as {stated!r}, but the prompt says {found!r}")


def _wrong(item: Item, what: str) -> CircuitlapseError:
    return CircuitlapseError(what, got=item.prompt, fix="Correct or remove this item")

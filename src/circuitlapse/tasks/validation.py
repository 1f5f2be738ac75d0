"""Validation of every item before anything is computed from it.

The checks use the finished prompts: an item whose text does not determine its answer is rejected.
``tokenize`` checks what depends on the tokenizer.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.words import NAMES

_KNOWN = frozenset(NAMES)


@dataclass(frozen=True)
class Candidates:
    """Possible continuations of a prompt, each with the space before it.

    Attributes:
        right: The right continuations, mostly one.
        wrong: The wrong ones that the prompt suggests.
        all_needed: Whether an item must hold all of them. It may leave out years that a tokenizer
            does not split after the century.
    """

    right: frozenset[str]
    wrong: frozenset[str]
    all_needed: bool = True

    @classmethod
    def of_words(cls, right: str, words: Iterable[str]) -> "Candidates":
        """Build from one right word among several, with a space before each."""
        return cls(
            frozenset({f" {right}"}), frozenset(f" {word}" for word in words if word != right)
        )


#: Reads a finished prompt, given all words that count as names, and works out its answer.
Solve = Callable[[str, Collection[str]], Candidates]


def undetermined(prompt: str, fix: str) -> CircuitlapseError:
    """The error of a solver that finds no answer, or several, in a prompt."""
    return CircuitlapseError("the prompt does not determine one answer", got=prompt, fix=fix)


def names_in(text: str, names: Collection[str]) -> list[str]:
    """List the names of a text as they come, repeated ones repeatedly."""
    return [word for word in re.findall(r"[A-Z]\w*", text) if word in names]


def determine_answer(prompt: str, names: Collection[str]) -> str:
    """Return the one name that is listed in an IOI prompt and not named again.

    ``names`` holds every word that counts as a name.

    Raises:
        CircuitlapseError: If no name, or more than one, is left.
    """
    found = names_in(prompt, names)
    listed = list(dict.fromkeys(found))
    again = found[len(listed) :]
    left = [name for name in listed if name not in again]
    if (
        len(listed) < 2
        or found[: len(listed)] != listed
        or len(set(again)) != len(again)
        or len(left) != 1
    ):
        raise undetermined(prompt, "List every name once, then name all of them but one again")
    return left[0]


def recipient(prompt: str, names: Collection[str]) -> Candidates:
    """Solve indirect object identification: who is listed and does not act."""
    return Candidates.of_words(determine_answer(prompt, names), names_in(prompt, names))


def validate(
    items: Iterable[Item],
    changes: Collection[str],
    invariance: Collection[str],
    solve: Solve = recipient,
) -> None:
    """Check that every item's text determines its answers.

    After counterfactuals in ``changes`` the answer must be a wrong candidate of the clean prompt;
    after those in ``invariance`` the right answers must stay.

    Raises:
        CircuitlapseError: At the first item that is wrong, with its prompt.
    """
    for item in items:
        names = _KNOWN | set(item.names)
        found = solve(item.prompt, names)
        right = (item.answer, *item.also)
        if not found.right.issuperset(right) or (found.all_needed and found.right - set(right)):
            stated, said = _spelt(right), _spelt(found.right)
            raise _wrong(item, f"the answer is stated as {stated}, but the prompt says {said}")
        wrong = set(item.distractors)
        if not wrong <= found.wrong or (found.all_needed and wrong < found.wrong):
            raise _wrong(item, f"the distractors must be {_spelt(found.wrong)}")
        candidates = (*right, *item.distractors)
        if len(set(candidates)) != len(candidates) or not item.distractors:
            raise _wrong(item, "answers and distractors must be different, and one of each there")
        _check_spans(item)
        wanted = {*changes, *invariance}
        if set(item.corrupt) != wanted or set(item.corrupt_answers) != wanted:
            raise _wrong(item, f"an item of this task has the counterfactuals {sorted(wanted)}")
        for key, prompt in item.corrupt.items():
            if prompt == item.prompt:
                raise _wrong(item, f"the counterfactual {key!r} changes nothing")
            answer, then = item.corrupt_answers[key], solve(prompt, names).right
            if answer not in then:
                said = _spelt(then)
                raise _wrong(item, f"the answer under {key!r} is {answer!r}, but it says {said}")
            if key in changes and answer in found.right:
                raise _wrong(item, f"the counterfactual {key!r} must change the answer")
            if key in invariance and (answer != item.answer or then != found.right):
                raise _wrong(item, f"the invariance check {key!r} must keep the answer")


def _check_spans(item: Item) -> None:
    for label, (start, end) in item.spans.items():
        word = item.prompt[start:end]
        first = item.spans.get(label.removesuffix("_again"), (start, end))
        if word != item.prompt[slice(*first)]:
            raise _wrong(item, f"the span {label!r} must cover the same word as the one before")
        if not word or (word.istitle() and item.names and word not in item.names):
            raise _wrong(item, f"the span {label!r} must cover a listed name, not {word!r}")


def _spelt(words: Collection[str]) -> str:
    return " or ".join(map(repr, sorted(words))) or "nothing"


def _wrong(item: Item, what: str) -> CircuitlapseError:
    return CircuitlapseError(what, got=item.prompt, fix="Correct or remove this item")

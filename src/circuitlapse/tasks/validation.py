"""Validation of generated items by their finished prompts; ``tokenize`` checks the tokens."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.words import NAMES

_KNOWN = frozenset(NAMES)


@dataclass(frozen=True)
class Candidates:
    """Right and wrong continuations of a prompt, each with the space before it.

    Without ``all_needed`` an item may leave some out, such as years that a tokenizer does not split
    after the century.
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


#: Works out the answer of a finished prompt, given all words that count as names.
Solve = Callable[[str, Collection[str]], Candidates]


def undetermined(prompt: str, fix: str) -> CircuitlapseError:
    """Return the error of a solver that finds no answer, or several, in a prompt."""
    return CircuitlapseError("the prompt does not determine one answer", got=prompt, fix=fix)


def names_in(text: str, names: Collection[str]) -> list[str]:
    """Return the names of a text in their order, repeated ones repeatedly."""
    return [word for word in re.findall(r"[A-Z]\w*", text) if word in names]


def names_of(item: Item) -> frozenset[str]:
    """Return all words that count as names in an item's prompts."""
    return _KNOWN | set(item.names)


def recipient(prompt: str, names: Collection[str]) -> Candidates:
    """Solve indirect object identification: the one name that is listed and not named again."""
    found = names_in(prompt, names)
    listed = list(dict.fromkeys(found))
    again = found[len(listed) :]
    left = [name for name in listed if name not in again]
    in_order = found[: len(listed)] == listed and len(set(again)) == len(again)
    if len(listed) < 2 or not in_order or len(left) != 1:
        raise undetermined(prompt, "List every name once, then name all of them but one again")
    return Candidates.of_words(left[0], listed)


def validate(
    items: Iterable[Item],
    changes: Collection[str],
    invariance: Collection[str],
    solve: Solve = recipient,
) -> None:
    """Raise an error at the first item whose text does not determine its answers.

    Counterfactuals in ``changes`` must make a wrong candidate of the clean prompt right; those in
    ``invariance`` must keep the right answers.
    """
    for item in items:
        if what := next(_faults(item, changes, invariance, solve), None):
            raise CircuitlapseError(what, got=item.prompt, fix="Correct or remove this item")


def _faults(
    item: Item, changes: Collection[str], invariance: Collection[str], solve: Solve
) -> Iterator[str]:
    names = names_of(item)
    found, right, wrong = solve(item.prompt, names), (item.answer, *item.also), item.distractors
    missing = found.all_needed and found.right - set(right)
    if not found.right.issuperset(right) or missing:
        yield f"the answer is stated as {_or(right)}, but the prompt says {_or(found.right)}"
    missing = found.all_needed and found.wrong - set(wrong)
    if not found.wrong.issuperset(wrong) or missing:
        yield f"the distractors must be {_or(found.wrong)}"
    if len({*right, *wrong}) != len(right) + len(wrong) or not wrong:
        yield "answers and distractors must differ, and there must be a distractor"
    for label, (start, end) in item.spans.items():
        word = item.prompt[start:end]
        first = item.spans.get(label.removesuffix("_again"), (start, end))
        if word != item.prompt[slice(*first)]:
            yield f"the span {label!r} must cover the same word as the one before"
        if not word or (word.istitle() and item.names and word not in item.names):
            yield f"the span {label!r} must cover a listed name, not {word!r}"
    wanted = {*changes, *invariance}
    if set(item.corrupt) != wanted or set(item.corrupt_answers) != wanted:
        yield f"an item of this task has the counterfactuals {sorted(wanted)}"
    for key, prompt in item.corrupt.items():
        if prompt == item.prompt:
            yield f"the counterfactual {key!r} changes nothing"
        answer, then = item.corrupt_answers[key], solve(prompt, names).right
        if answer not in then:
            yield f"the answer under {key!r} is {answer!r}, but the prompt says {_or(then)}"
        if key in changes and answer in found.right:
            yield f"the counterfactual {key!r} must change the answer"
        if key in invariance and (answer != item.answer or then != found.right):
            yield f"the invariance check {key!r} must keep the answer"


def _or(words: Collection[str]) -> str:
    return " or ".join(map(repr, sorted(words))) or "nothing"

"""The reference task: the prompts of a task, with the answers of the plainest rule of their format.

Learning it shows what any rule on these prompts costs: reading the format, and answering with a
candidate. It is the denominator of bits_ratio.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item, mentions

SAME_TASK = 0.9
"""A rule that is right on more prompts of the task than this is no reference for it."""


@dataclass(frozen=True)
class ReferenceRule:
    """A rule that names a candidate without the task's computation.

    Attributes:
        sentence: The rule in words.
        answer: Given a prompt and its candidates, the one that the rule names; None if none.
    """

    sentence: str
    answer: Callable[[str, Sequence[str]], str | None]


def first_named(prompt: str, words: Sequence[str]) -> str | None:
    """Return the candidate that a prompt names first; None if it names none."""
    named = mentions(prompt, [word.strip() for word in words])
    return next((word for word in words if named and word.strip() == named[0]), None)


FIRST_NAMED = ReferenceRule("The answer is the candidate that the prompt names first.", first_named)


def with_rule(
    items: Sequence[Item],
    rule: ReferenceRule,
    candidates_after: Callable[[Item, str], Sequence[str]],
) -> list[Item]:
    """Return the same prompts with a rule's answers.

    The candidates of a prompt stay the same. ``candidates_after`` returns those of one of an item's
    counterfactuals; where it has none, the rule's answer to the counterfactual is left out.

    Raises:
        CircuitlapseError: If :func:`why_no_reference` has a reason.
    """
    if reason := why_no_reference(items, rule):
        raise CircuitlapseError(
            f"there is no reference task: {reason}",
            fix="Use prompts that name at least two candidates, or do without bits_ratio",
        )
    found = []
    for item in items:
        words = _candidates(item)
        answer = rule.answer(item.prompt, words)
        after = {
            key: rule.answer(prompt, candidates_after(item, key))
            for key, prompt in item.corrupt.items()
        }
        ruled = {
            "answer": answer,
            "also": (),
            "distractors": tuple(word for word in words if word != answer),
            "corrupt_answers": {key: word for key, word in after.items() if word is not None},
        }
        found.append(item.model_copy(update=ruled))
    return found


def why_no_reference(items: Sequence[Item], rule: ReferenceRule) -> str | None:
    """Say why a rule on these prompts is no reference task; None if it is one."""
    if not all(item.distractors for item in items):
        return "the prompts have no wrong candidates"
    answers = [rule.answer(item.prompt, _candidates(item)) for item in items]
    if None in answers:
        missing = items[answers.index(None)].prompt
        return (
            f"{answers.count(None)} of {len(items)} prompts name none of their candidates, such as "
            f"{missing[:120]!r}"
        )
    right = sum(
        answer in (item.answer, *item.also) for item, answer in zip(items, answers, strict=True)
    )
    if right > SAME_TASK * len(items):
        return (
            f"it would be the task itself, because its rule is right on {right} of {len(items)} "
            f"prompts ({rule.sentence})"
        )
    return None


def known_candidates(item: Item, key: str) -> list[str]:
    """Return the candidates of a counterfactual as far as the item has them; else an empty list.

    They are complete if both prompts name as many of them.
    """
    words = list(dict.fromkeys([*_candidates(item), item.corrupt_answers.get(key, item.answer)]))
    clean, corrupt = (
        set(mentions(prompt, [word.strip() for word in words]))
        for prompt in (item.prompt, item.corrupt[key])
    )
    return words if len(clean) == len(corrupt) else []


def _candidates(item: Item) -> tuple[str, ...]:
    return (item.answer, *item.also, *item.distractors)

"""Induction on random tokens (Elhage et al. 2021; Olsson et al. 2022): "… A B … A" → "B".

Random words are followed by the first of the same words. The answer is the next word of the first
copy, and the distractors are the others. Pairs of successive words are held out. The number of
words takes the role of templates.
"""

import random
from collections.abc import Collection

from circuitlapse.records.items import Item
from circuitlapse.tasks.splits import hash_split, held_out
from circuitlapse.tasks.task import Case, GeneratedTask
from circuitlapse.tasks.validation import Candidates, undetermined
from circuitlapse.tasks.words import Pools

_LEAD = "Then"  # a drawn word at the beginning would be another token
_LENGTHS = {"train": 8, "validation_templates": 6, "test_templates": 10}


def next_word(prompt: str, names: Collection[str]) -> Candidates:
    """Return the word after the last word's earlier copy."""
    words = prompt.split(" ")[1:]
    again = len(words) - len(set(words))
    if again < 1 or words[:again] != words[len(words) - again :] or again >= len(set(words)):
        raise undetermined(prompt, "Repeat the beginning of a row of different words")
    return Candidates.of_words(words[again], set(words))


def _draw(rng: random.Random, split: str, case: Case, pools: Pools) -> Item:
    wanted, templates = held_out(split)
    length = _LENGTHS[templates]
    while True:
        drawn = rng.sample(pools["word"], 2 * length)
        words, others = drawn[:length], drawn[length:]
        again = rng.randint(2, length - 1)  # words of the second copy
        last, answer = words[again - 1], words[again]
        if hash_split(f"{last} {answer}") == wanted:
            break

    def prompt(words: list[str]) -> str:
        return " ".join((_LEAD, *words, *words[:again]))

    starts = [len(_LEAD) + 1 + len(" ".join(words[:i])) + (i > 0) for i in (again - 1, again)]
    changed = [*words[:again], others[again], *words[again + 1 :]]
    replaced = [*others[: again - 1], last, answer, *others[again + 1 :]]
    return Item(
        prompt=prompt(words),
        answer=f" {answer}",
        distractors=tuple(f" {word}" for word in words if word != answer),
        names=(),
        template=f"{length} words",
        split=split,
        spans={
            "TOKEN": (starts[0], starts[0] + len(last)),
            "NEXT": (starts[1], starts[1] + len(answer)),
        },
        corrupt={"next_token": prompt(changed), "other_tokens": prompt(replaced)},
        corrupt_answers={"next_token": f" {others[again]}", "other_tokens": f" {answer}"},
    )


TASKS = (
    GeneratedTask(
        name="induction",
        question="Random words begin again: which word came next the first time?",
        families={"token": ("next_token",)},
        invariance=("other_tokens",),
        positions=("TOKEN", "NEXT", "END"),
        draw=_draw,
        solve=next_word,
        needs={"word": 2 * max(_LENGTHS.values())},
    ),
)

"""Who bought more: a comparison of two numbers.

From "John buys 1 bottle of milk. Mary buys 10 bottles of milk. The person who buys more bottles of
milk is".
"""

import re
from collections.abc import Collection

from circuitlapse.tasks.story import Change, Story
from circuitlapse.tasks.validation import Candidates, undetermined
from circuitlapse.tasks.words import NUMBER_WORDS

_BUY = {
    "train": (
        "Today {1} bought {n1} {goods}. {2} bought {n2} {goods}.",
        "At the {place} {1} bought {n1} {goods}, and {2} bought {n2} {goods}.",
        "In the morning {1} bought {n1} {goods}. Then {2} bought {n2} {goods}.",
        "While {1} took {n1} {goods}, {2} took {n2} {goods}.",
        "For the {place} {1} ordered {n1} {goods} and {2} ordered {n2} {goods}.",
    ),
    "validation_templates": (
        "Last week {1} ordered {n1} {goods}. {2} ordered {n2} {goods}.",
        "In the {place} {1} took {n1} {goods}. Soon {2} took {n2} {goods}.",
    ),
    "test_templates": (
        "Before noon {1} bought {n1} {goods}. After noon {2} bought {n2} {goods}.",
        "Near the {place} {1} ordered {n1} {goods}, while {2} ordered {n2} {goods}.",
    ),
}
_ASK = {
    "train": (
        "The person who has more {goods} is",
        "The one with more {goods} is",
        "Now more {goods} belong to",
    ),
    "validation_templates": ("The person with more {goods} is",),
    "test_templates": ("The one who has more {goods} is", "More {goods} belong to"),
}


def has_more(prompt: str, names: Collection[str]) -> Candidates:
    """Return whose number is larger; a number follows a name and a verb."""
    words = re.findall(r"\w+", prompt)
    numbers = {
        name: int(word) if word.isdigit() else 2 + NUMBER_WORDS.index(word)
        for name, word in zip(words, words[2:], strict=False)
        if name in names and (word.isdigit() or word in NUMBER_WORDS)
    }
    if len(numbers) != 2 or len(set(numbers.values())) != 2:
        raise undetermined(prompt, "Give two people different numbers")
    return Candidates.of_words(max(numbers, key=lambda name: numbers[name]), numbers)


TASKS = (
    Story(
        name="bought_more",
        question="Two people buy different numbers of a thing: who has more?",
        parts=(_BUY, _ASK),
        roles=("MORE", "LESS"),
        listed=("MORE", "LESS"),
        numbered=("MORE", "LESS"),
        answer="MORE",
        solve=has_more,
        families={
            "number": {"numbers_swapped": Change({"N_MORE": "N_LESS", "N_LESS": "N_MORE"}, "LESS")}
        },
        positions=("MORE", "N_MORE", "LESS", "N_LESS"),
    ).task(),
)

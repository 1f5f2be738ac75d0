"""Who has it now: a thing goes along three people, told forwards or backwards.

From "John has a ball. John passes the ball to Mary. Mary passes the ball to Jim. The ball is now in
the hand of". Told forwards the answer is always the last name; told backwards it never is.
"""

import re
from collections.abc import Collection

from circuitlapse.tasks.story import SOMEONE, Change, Story
from circuitlapse.tasks.validation import Candidates, names_in, undetermined

_HAVE = {
    "train": (
        "Today {FIRST} had a {object}.",
        "At first {FIRST} had the {object}.",
        "In the morning {FIRST} had a {object}.",
        "Then {FIRST} had a {object}.",
    ),
    "validation_templates": ("At noon {FIRST} had the {object}.",),
    "test_templates": ("Last night {FIRST} had a {object}.", "Once {FIRST} had the {object}."),
}
_PASS = {
    "train": (
        "{FIRST} passed the {object} to {SECOND}. {SECOND} passed the {object} to {LAST}.",
        "{FIRST} handed the {object} to {SECOND}. Then {SECOND} handed the {object} to {LAST}.",
        "Soon {FIRST} gave the {object} to {SECOND}. Later {SECOND} gave the {object} to {LAST}.",
        "{FIRST} threw the {object} to {SECOND}, and {SECOND} threw the {object} to {LAST}.",
        "When {FIRST} gave the {object} to {SECOND}, {SECOND} passed the {object} to {LAST}.",
    ),
    "validation_templates": (
        "{FIRST} sent the {object} to {SECOND}. Soon {SECOND} sent the {object} to {LAST}.",
    ),
    "test_templates": (
        "Later {FIRST} gave the {object} to {SECOND}. {SECOND} handed the {object} to {LAST}.",
        "So {FIRST} passed the {object} to {SECOND}, and {SECOND} gave the {object} to {LAST}.",
    ),
}
_BACKWARDS = {
    "train": (
        "{SECOND} passed the {object} to {LAST}. {FIRST} had passed the {object} to {SECOND}.",
        "{SECOND} gave the {object} to {LAST} when {FIRST} had given the {object} to {SECOND}.",
        "Later {SECOND} handed the {object} to {LAST}; {FIRST} had given the {object} to {SECOND}.",
        "{SECOND} threw the {object} to {LAST} after {FIRST} had thrown the {object} to {SECOND}.",
    ),
    "validation_templates": (
        "{SECOND} sent the {object} to {LAST}, once {FIRST} had sent the {object} to {SECOND}.",
    ),
    "test_templates": (
        "Then {SECOND} gave the {object} to {LAST}; {FIRST} had sent the {object} to {SECOND}.",
        "So {SECOND} passed the {object} to {LAST}; {FIRST} had handed the {object} to {SECOND}.",
    ),
}
_ASK = {
    "train": (
        "The {object} is now in the hand of",
        "Now the {object} is in the hand of",
        "The one with the {object} is",
        "The person who has the {object} is",
    ),
    "validation_templates": ("The {object} is now with",),
    "test_templates": ("Now the {object} is held by", "The person with the {object} is now"),
}
_STEP = re.compile(
    r"(\w+) (had )?(?:passed|handed|gave|given|threw|thrown|sent) the (\w+) to (\w+)"
)


def last_holder(prompt: str, names: Collection[str]) -> Candidates:
    """Return who has the thing at the end; what someone "had" done came first."""
    start = re.search(r"(\w+) had (?:a|the) (\w+)\.", prompt)
    steps = sorted(_STEP.findall(prompt), key=lambda step: not step[1])
    if start is None or not steps:
        raise undetermined(prompt, "Say who has it first and who passes it to whom")
    holder, thing = start.groups()
    for giver, _, given, receiver in steps:
        if giver != holder or given != thing or receiver == giver or receiver not in names:
            raise undetermined(prompt, "Let only the one who has it pass it on")
        holder = receiver
    return Candidates.of_words(holder, names_in(prompt, names))


def _passing(name: str, order: str, steps: dict[str, tuple[str, ...]]) -> Story:
    return Story(
        name=name,
        question=f"A thing goes along three people, told {order}: who has it now?",
        parts=(_HAVE, steps, _ASK),
        roles=("FIRST", "SECOND", "LAST"),
        answer="LAST",
        solve=last_holder,
        families={"subject": {"last_to_first": Change({"LAST": "FIRST"}, "FIRST")}},
        invariance={"other_first": {"FIRST": SOMEONE}, "other_second": {"SECOND": SOMEONE}},
        positions=("FIRST", "SECOND", "LAST", "FIRST_again", "SECOND_again"),
    )


TASKS = (
    _passing("pass3", "forwards", _PASS).task(),
    _passing("pass3_backwards", "backwards", _BACKWARDS).task(),
)

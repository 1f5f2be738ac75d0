"""Openings that list the names and continuations that repeat all of them but one.

Openings hold ``{names}`` ("A and B" or "A, B and C") and mostly ``{place}``; continuations hold
``{subjects}`` ("A" or "A and B") and mostly ``{object}``, and end right before the recipient. All
verbs of continuations are in the past tense, so that one wording serves one subject and two. Every
opening begins with an ordinary word, so that a name has a space before it and is the same token
everywhere. An opening or continuation belongs to one split only.
"""

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple


class Template(NamedTuple):
    """An opening or continuation: a stable ``id`` for items and tables, and a text with slots."""

    id: str
    text: str


_OPENINGS = {
    "train": (
        "Then, {names} went to the {place}.",
        "When {names} arrived at the {place},",
        "After {names} left the {place},",
        "While {names} were at the {place},",
        "Yesterday {names} met at the {place}.",
        "Once {names} had found the {place},",
        "In the morning {names} walked to the {place}.",
        "At the {place}, {names} had lunch.",
        "Because {names} were tired of the {place},",
        "Later that day, {names} came to the {place}.",
        "As soon as {names} reached the {place},",
        "One day {names} worked together in the {place}.",
        "Before {names} left for the {place},",
        "Last week, {names} stayed near the {place}.",
        "Since {names} were late for work at the {place},",
        "Inside the old {place}, {names} sat down.",
        "People say that {names} were seen at the {place}.",
        "On the way to the {place}, {names} had a long talk.",
        "It was raining when {names} came out of the {place}.",
        "Although {names} did not like the {place},",
        "During a walk to the {place}, {names} talked for an hour.",
        "That evening the guests were {names}, and there was dinner at the {place}.",
        "Tired and late, {names} went home from the {place}.",
        "Everyone at the {place} knew {names}.",
        "There was a party at the {place}, and {names} were there.",
        "Not far from the {place} {names} had a house.",
        "Now that {names} were friends,",
        "With some time left, {names} looked for the {place}.",
    ),
    "validation_templates": (
        "Today {names} played a game at the {place}.",
        "If the story is true, {names} worked at the {place}.",
        "By noon, {names} had left the {place}.",
        "Outside the {place} {names} waited for an hour.",
    ),
    "test_templates": (
        "Last night {names} had dinner in the {place}.",
        "When the rain was over, {names} walked out of the {place}.",
        "Just as {names} sat down at the {place},",
        "The new owners of the {place} were {names}.",
        "For an hour, {names} talked about the {place}.",
        "Early in the day, {names} found an old {place}.",
    ),
}

_CONTINUATIONS = {
    "train": (
        "{subjects} gave a {object} to",
        "then {subjects} gave the {object} to",
        "{subjects} decided to give a {object} to",
        "{subjects} handed a {object} to",
        "later {subjects} sent the {object} to",
        "soon after, {subjects} wanted to give the {object} to",
        "{subjects} bought a {object} for",
        "with a smile, {subjects} passed the {object} to",
        "in the end {subjects} said sorry to",
        "{subjects} found a {object} there and brought it to",
        "at last {subjects} told the whole story to",
        "{subjects} went home and wrote a long letter to",
        "there {subjects} showed an old {object} to",
        "a minute later {subjects} offered the {object} to",
        "after a long talk, {subjects} lent the {object} to",
        "the {object} was nice, so {subjects} gave it to",
        "{subjects} picked up the {object} and threw it to",
        "without a word {subjects} returned the {object} to",
        "{subjects} made some tea and served it to",
        "before noon, {subjects} sold the old {object} to",
        "{subjects} had a {object} and wanted to show it to",
        "as a joke, {subjects} took a {object} and left it for",
    ),
    "validation_templates": (
        "that night {subjects} lent some coffee to",
        "{subjects} kept the {object} for an hour and gave it back to",
        "the next day {subjects} said hello to",
    ),
    "test_templates": (
        "{subjects} opened the door and threw the {object} to",
        "to make up, {subjects} bought some tea for",
        "with a long letter {subjects} sent a {object} to",
        "{subjects} found out and told the news to",
        "for fun, {subjects} wanted to sell the {object} to",
        "some time later {subjects} read a story to",
    ),
}


def _numbered(letter: str, texts: dict[str, tuple[str, ...]]) -> dict[str, tuple[Template, ...]]:
    number = count()
    return {
        split: tuple(Template(f"{letter}{next(number):02d}", text) for text in group)
        for split, group in texts.items()
    }


#: Openings by the split of templates that they belong to.
OPENINGS: dict[str, tuple[Template, ...]] = _numbered("o", _OPENINGS)
#: Continuations by the split of templates that they belong to.
CONTINUATIONS: dict[str, tuple[Template, ...]] = _numbered("c", _CONTINUATIONS)


def listing(names: Sequence[str]) -> str:
    """Write a list of names as the templates do: ``A``, ``A and B`` or ``A, B and C``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def render(
    opening: Template,
    continuation: Template,
    names: Sequence[str],
    subjects: Sequence[str],
    place: str,
    obj: str,
) -> str:
    """Fill an opening and a continuation, and join them into one prompt.

    ``subjects`` are in the order in which they act. A continuation after a full stop starts with a
    capital letter.
    """
    first = opening.text.format(names=listing(names), place=place)
    second = continuation.text.format(subjects=listing(subjects), object=obj)
    return f"{first} {second[0].upper() + second[1:] if first.endswith('.') else second}"

"""Openings that list the names and continuations that repeat all of them but one.

Openings hold ``{names}`` ("A and B" or "A, B and C") and mostly ``{place}``; continuations hold
``{subjects}`` ("A" or "A and B") and mostly ``{object}``, and end right before the recipient. All
verbs of continuations are in the past tense, so that one wording serves one subject and two. Every
opening begins with an ordinary word, so that a name has a space before it and is the same token
everywhere. An opening or continuation belongs to one split only.
"""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from itertools import count
from typing import NamedTuple

_TEXTS = tomllib.loads(files("circuitlapse.tasks").joinpath("templates.toml").read_text("utf-8"))


class Template(NamedTuple):
    """An opening or continuation: a stable ``id`` for items and tables, and a text with slots."""

    id: str
    text: str


def _numbered(letter: str, texts: dict[str, list[str]]) -> dict[str, tuple[Template, ...]]:
    number = count()
    return {
        split: tuple(Template(f"{letter}{next(number):02d}", text) for text in group)
        for split, group in texts.items()
    }


#: Openings by the split of templates that they belong to.
OPENINGS: dict[str, tuple[Template, ...]] = _numbered("o", _TEXTS["openings"])
#: Continuations by the split of templates that they belong to.
CONTINUATIONS: dict[str, tuple[Template, ...]] = _numbered("c", _TEXTS["continuations"])


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

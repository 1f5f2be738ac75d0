"""Who is the recipient of an imported prompt?

One rule reads every prompt. The first enumeration lists the people. The last names of the prompt
are those who act: all listed people but one, as the subject of the last clause. The recipient is
the one who is left. A prompt of another form is rejected, since a wrong answer among the items
costs more than a lost item.
"""

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from circuitlapse.tasks.templates import listing

WrittenTask = Literal["ioi2", "ioi3"]
#: How many people a prompt of each task lists. All but one of them act.
LISTED: dict[WrittenTask, int] = {"ioi2": 2, "ioi3": 3}

_ENGLISH = tomllib.loads(files("circuitlapse.written").joinpath("english.toml").read_text("utf-8"))
#: Why an item cannot be used.
MEANINGS: dict[str, str] = _ENGLISH["reasons"]
_ANY = {key: "|".join(words.split()) for key, words in _ENGLISH["words"].items()}

#: What an item may say of itself.
CLAIMS = ("listed", "acting", "recipient")
_LONGEST = 600  # characters
_STRANGE = r"[^\w \-.,;:!?'\"()\u2013\u2014&%$£€/…]|_|https?:|www\."
_NOT_PLAIN = re.compile("|".join([_STRANGE, *_ENGLISH["to_a_model"]]), re.IGNORECASE)
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_BLANK = re.compile(r"\s*(?:_{2,}|\.{3,}|…|\[(?:blank|mask)\])?\s*$", re.IGNORECASE)
#: A word; a capitalised one may be a name.
WORD = re.compile(r"[^\W\d_](?:[\w-]*\w)?(?:'(?!s\b)\w+)*")
_OPENS = re.compile(r"(?:^|[.!?:])[\W\d_]*$")
_JOINT = re.compile(r", |,? (?:and|&) ")
_PLACED = re.compile(rf"\b(?:{_ANY['placed']}) $", re.IGNORECASE)
_ENDS = re.compile(rf"\b(?:{_ANY['ends']})[\"'(]?$")
_OPENER = re.compile(rf"{_ANY['openers']}|{_ANY['connectives']}", re.IGNORECASE)
_BEFORE_SUBJECT = re.compile(rf"{_ANY['connectives']}|\W", re.IGNORECASE)
#: A phrase in front of a subject: "with a long letter Ana gave".
_FRONTED = re.compile(
    r"(?:^|[.,;] )(?:[a-z]+ )?(?:an?|the|that|this|some) (?:[a-z]+ ){1,2}$", re.IGNORECASE
)
#: Another subject than the names, between them and the end.
_ELSE = re.compile(
    rf"(?<![\w-])(?:{_ANY['pronouns']})(?![\w-])|"
    r"(?:[.;,]|\b(?:and|as|because|but|if|so|that|until|when|while)) "
    r"(?:the(?! (?:two|pair)\b)|an?|their|his|her|its|another|one) "
    rf"(?:[a-z]+ ){{1,2}}?(?:[a-z]+ed|{_ANY['past']}) ",
    re.IGNORECASE,
)
#: After an exchange of names, "her drink" could be another person's.
GENDERED = re.compile(rf"\b(?:{_ANY['gendered']})\b", re.IGNORECASE)


class ItemError(Exception):
    """An item cannot be used, for a ``reason`` of ``MEANINGS``; its text says what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason."""
        super().__init__(detail)
        self.reason = reason


class Name(NamedTuple):
    """A capitalised word of a prompt, from the character ``start`` to before ``end``."""

    text: str
    start: int
    end: int
    opens: bool  # a sentence, where any word has a capital


class Reading(NamedTuple):
    """What a prompt says: who is listed and acts, with their characters, and who is left."""

    prompt: str
    listed: dict[str, tuple[int, int]]
    acting: dict[str, tuple[int, int]]
    recipient: str


def tidy(text: str) -> str:
    """Return a text with straight quotes, without spaces, ``___`` and dots at its end."""
    return _BLANK.sub("", text.strip().translate(_STRAIGHT))


def answer_of(completion: str) -> tuple[str, int]:
    """Return the name that a completion holds, and how often it is repeated in a row."""
    words = [word.strip("\"'*.!,") for word in tidy(completion).split()]
    return (words[0], len(words)) if len(set(words)) == 1 else (" ".join(words), 1)


def recipient_of(
    prompt: str, answer: str, task: WrittenTask, claims: Mapping[str, Any] | None = None
) -> Reading:
    """Read a prompt and check that the answer is its recipient.

    Raises:
        ItemError: If the prompt has no single recipient, or the answer or a claim is wrong.
    """
    prompt = tidy(prompt)
    if problem := _NOT_PLAIN.search(prompt):
        raise ItemError("not_plain", f"{problem[0]!r} is not plain text or addresses a model")
    short = len(prompt) <= _LONGEST
    _require(short, "not_plain", f"{len(prompt)} characters are more than {_LONGEST}")
    groups, count = _groups(prompt, answer), LISTED[task]
    listed = next((group for group in groups if len(group) > 1), [])
    people = [name.text for name in listed]
    plain = len(people) == len(set(people)) == count and not any(" " in name for name in people)
    _require(plain, "no_list", f"{count} first names are needed, not {listing(people) or 'none'}")
    acting = _acting(prompt, groups, listed)
    who = [name.text for name in acting]
    (left,) = set(people) - set(who)
    _require(_ENDS.search(prompt), "answer", f"no name can follow {prompt.split(' ')[-1]!r}")
    right = answer.casefold() == left.casefold()
    _require(right, "answer", f"the answer is {answer[:60]!r}, but {left!r} is left")
    for name in [name for group in groups for name in group if name.text not in people]:
        other = _may_be_person(prompt, name)
        _require(not other, "other_name", f"{name.text!r} may be meant as well as {left!r}")
    said = {"listed": [people], "acting": [who, who[::-1]], "recipient": [left]}
    for key, value in (claims or {}).items():
        right = value in said[key]
        _require(right, "fields", f"{key} is {str(value)[:60]}, not {said[key][0]}")
    at, acting_at = ({n.text: (n.start, n.end) for n in part} for part in (listed, acting))
    return Reading(prompt, at, acting_at, left)


def _require(holds: object, reason: str, detail: str) -> None:
    if not holds:
        raise ItemError(reason, detail)


def _groups(text: str, answer: str) -> list[list[Name]]:
    """Find the names of a text, enumerated ones in one group."""
    words = [
        Name(word[0], *word.span(), _OPENS.search(text, 0, word.start()) is not None)
        for word in WORD.finditer(text)
    ]
    sure = {word.text for word in words if not word.opens} | {answer}
    names = [word for word in words if word.text[0].isupper() and word.text != "I"]
    names = [name for name in names if name.text in sure or not _OPENER.fullmatch(name.text)]
    groups = [[name] for name in names[:1]]
    for last, name in pairwise(names):
        between = text[last.end : name.start]
        # A place before a comma ("In Paris, Ana and Ben") is not in the list.
        alone = between == ", " and _PLACED.search(text[: last.start])
        if between == " ":  # a full name, which is no listed name
            start = groups[-1][-1].start
            groups[-1][-1] = Name(text[start : name.end], start, name.end, last.opens)
        elif _JOINT.fullmatch(between) and not alone:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _acting(text: str, groups: list[list[Name]], listed: list[Name]) -> list[Name]:
    """Return the last names of a text if they are its last subject, and all listed but one."""
    people = [name.text for name in listed]
    found = [list(group) for group in groups if any(name.text in people for name in group)][-1]
    if len(found) > 1 and found[0].opens and found[0].text not in people:
        del found[0]  # "Excited, Ana and Ben"
    who, end, before = [name.text for name in found], found[-1].end, text[: found[0].start]
    everyone, they = listing(people), listing(who)
    _require(before != text[: listed[0].start], "subjects", f"nobody of {everyone} is named again")
    _require(not set(who) >= set(people), "answer", f"all of {everyone} act")
    most = sorted(who) == sorted(set(who) & set(people)) and len(who) == len(people) - 1
    _require(most, "subjects", f"of {everyone}, the last names are only {they}")
    word = re.findall(r"[\w'-]+|[^\w\s]", before.rstrip(" \"'("))[-1]
    subject = _BEFORE_SUBJECT.fullmatch(word) or _FRONTED.search(before)
    _require(subject, "subjects", f"{they} after {word!r} may not be a subject")
    owner = re.match(r"'s\b|'(?=\s)", text[end:])
    _require(not owner, "subjects", f"{they} is a possessive")
    if other := _ELSE.search(text, end):
        raise ItemError("subjects", f"{other[0].strip(' .,;')!r} is another subject")
    return found


def _may_be_person(text: str, name: Name) -> bool:
    rest = text[name.end :]
    owns, acts = re.match(r"'s? [a-z]", rest), re.match(r" and [A-Z]| (?:[a-z]+ed|was|had)\b", rest)
    return bool(owns or (acts if name.opens else not _PLACED.search(text[: name.start])))

"""Who is the recipient of a prompt that somebody wrote?

One rule reads every text. The first enumeration lists the people. The last names of the text are
those who act: all listed people but one, as the subject of the clause that breaks off. The
recipient is the one who is left. A text of another form is rejected, since a wrong answer among
the items costs more than a lost item.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal

WrittenTask = Literal["ioi2", "ioi3"]
#: How many people a prompt of each task lists. All but one of them act.
LISTED: dict[WrittenTask, int] = {"ioi2": 2, "ioi3": 3}

#: Why an item cannot be used.
MEANINGS = {
    "duplicate": "The same prompt with the same answer stands earlier.",
    "not_plain": "The prompt is not one line of plain text, or it addresses a model.",
    "no_list": "The prompt does not list exactly as many different first names as the task needs.",
    "subjects": "The other listed people are not the named subject of the clause before the end.",
    "answer": "The answer is not the listed person who is left, or no name can follow the prompt.",
    "other_name": "The prompt names somebody else, who may be the answer as well.",
    "fields": "The fields listed, acting and recipient are missing or differ from the prompt.",
    "counterfactual": "An exchange of names may not give a prompt with one answer of its own.",
    "tokens": "The tokenizer splits a name, or a counterfactual differs in length.",
}

_LONGEST = 600  # characters
_STRANGE = re.compile(r"[^\w \-.,;:!?'\"()\u2013\u2014&%$£€/…]|_|https?:|www\.")
_TO_A_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,60}\b(?:instruction|prompt|rule|above|"
    r"previous|prior|earlier|everything)|\b(?:system|developer) (?:prompt|message)|\bas an ai\b|"
    r"\b(?:language model|ai assistant|api key)\b|\b(?:reply|print|output|say) (?:only|with)\b|"
    r"\byou (?:are|must|should|will|now)\b|(?:^|[.!?] )(?:system|assistant|user) ?:",
    re.IGNORECASE,
)
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_BLANK = re.compile(r"\s*(?:_{2,}|\.{3,}|…|\[(?:blank|mask)\])?\s*$", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_](?:[\w-]*\w)?(?:'(?!s\b)\w+)*")
_JOINT = re.compile(r", |,? (?:and|&) ")
_PLACED = re.compile(
    r"\b(?:about|an?|ancient|around|at|every|in|inside|last|near|of|on|the) $", re.IGNORECASE
)
_ENDS = re.compile(r"\b(?:about|at|behind|beside|for|from|near|on|to|toward|towards|with)[\"'(]?$")
_OTHER = "he|she|I|we|you|everyone|everybody|someone|somebody|nobody|anyone|anybody"
_PAST = "[a-z]+ed|was|were|had|gave|brought|bought|made|took|told|sent|came|left|said|saw|began"
#: A phrase in front of a subject: "with a long letter Ana gave".
_FRONTED = re.compile(
    r"(?:^|[.,;] )(?:[a-z]+ )?(?:an?|the|that|this|some) (?:[a-z]+ ){1,2}$", re.IGNORECASE
)
#: Another subject than the names, between them and the end.
_ELSE = re.compile(
    rf"(?<![\w-])(?:{_OTHER})(?![\w-])|"
    r"(?:[.;,]|\b(?:and|as|because|but|if|so|that|until|when|while)) "
    r"(?:the(?! (?:two|pair)\b)|an?|their|his|her|its|another|one) "
    rf"(?:[a-z]+ ){{1,2}}?(?:{_PAST}) ",
    re.IGNORECASE,
)


#: Words that a clause's subject can follow.
_BEFORE_SUBJECT = re.compile(
    r"after|afternoon|afterwards?|although|and|as|because|before|both|but|day|evening|eventually|"
    r"finally|how|if|it's|last|later|let|morning|night|now|once|only|since|so|soon|that|then|there|"
    r"though|time|today|together|until|was|week|were|when|where|whereas|while|who|yet|\W"
)
#: Words that open a sentence and are no names, with those that a subject can follow.
_NO_NAME = re.compile(
    r"an?|about|another|at|by|during|each|earlier|every|everybody|everyone|for|from|he|her|here|"
    r"his|i|in|inside|into|it|its|many|meanwhile|near|next|no|nobody|not|on|one|or|our|outside|"
    r"over|she|some|somebody|someone|suddenly|the|their|these|they|this|those|three|through|to|"
    r"tomorrow|tonight|two|under|unlike|upon|we|what|which|why|with|without|yesterday|you|your"
)


class ItemError(Exception):
    """An item cannot be used, for a ``reason`` of ``MEANINGS``; its text says what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Name:
    """A capitalised word of a prompt, from the character ``start`` to before ``end``."""

    text: str
    start: int
    end: int
    opens: bool = False


@dataclass(frozen=True)
class Reading:
    """What a prompt says. ``mentions`` are all listed names that stand after the enumeration."""

    prompt: str
    listed: tuple[Name, ...]
    acting: tuple[Name, ...]
    mentions: tuple[Name, ...]
    recipient: str


def tidy(text: str) -> str:
    """Return a text with straight quotes, without spaces, ``___`` and dots at its end."""
    return _BLANK.sub("", text.strip().translate(_STRAIGHT))


def answer_of(completion: str) -> tuple[str, int]:
    """Return the name that a completion holds, and how often it is repeated in a row."""
    words = [word.strip("\"'*.!,") for word in tidy(completion).split()]
    if words and len(set(words)) == 1:
        return words[0], len(words)
    return " ".join(words), 1


def recipient_of(
    prompt: str, answer: str, task: WrittenTask, fields: Mapping[str, Any] = MappingProxyType({})
) -> Reading:
    """Read a prompt and check that the answer is its recipient.

    ``fields`` are claims to check against the text: ``listed``, ``acting``, ``recipient``.

    Raises:
        ItemError: If the prompt has no single recipient, or the answer or a field is wrong.
    """
    prompt = tidy(prompt)
    for problem in (_STRANGE.search(prompt), _TO_A_MODEL.search(prompt)):
        if problem:
            raise ItemError("not_plain", f"{problem[0]!r} is not plain text or addresses a model")
    if len(prompt) > _LONGEST:
        raise ItemError("not_plain", f"{len(prompt)} characters are more than {_LONGEST}")
    names = _names(prompt, answer)
    groups = _groups(prompt, names)
    listed = _listed(groups, LISTED[task])
    people = [name.text for name in listed]
    mentions = [n for n in names if n.text in people and n.start >= listed[-1].end]
    acting = _acting(prompt, groups, listed)
    who = [name.text for name in acting]
    (left,) = set(people) - set(who)
    if not _ENDS.search(prompt):
        raise ItemError("answer", f"no name can follow {prompt.split(' ')[-1]!r}")
    if answer.casefold() != left.casefold():
        raise ItemError("answer", f"the answer is {answer[:60]!r}, but {left!r} is left")
    for name in [name for group in groups for name in group]:
        if name.text not in people and _somebody(prompt, name):
            raise ItemError("other_name", f"{name.text!r} may be meant as well as {left!r}")
    for key, allowed in (("listed", [people]), ("acting", [who, who[::-1]]), ("recipient", [left])):
        if key in fields and fields[key] not in allowed:
            raise ItemError("fields", f"{key} is {str(fields[key])[:60]}, not {allowed[0]}")
    return Reading(prompt, tuple(listed), tuple(acting), tuple(mentions), left)


def _names(text: str, answer: str) -> list[Name]:
    """List the capitalised words. The first word of a sentence may be an ordinary word."""
    words = []
    for match in _WORD.finditer(text):
        before = text[words[-1].end : match.start()] if words else "."
        opens = re.search(r"[.!?:]", before) is not None
        words.append(Name(match[0], *match.span(), opens))
    sure = {word.text for word in words if not word.opens} | {answer}
    return [
        word
        for word in words
        if word.text[0].isupper()
        and word.text != "I"
        and not (word.opens and word.text not in sure and _is_word(word.text))
    ]


def _is_word(text: str) -> bool:
    low = text.lower()
    return bool(_NO_NAME.fullmatch(low) or _BEFORE_SUBJECT.fullmatch(low))


def _groups(text: str, names: Sequence[Name]) -> list[list[Name]]:
    """Join enumerated names. A place before a comma ("In Paris, Ana and Ben") stands alone."""
    groups = [[name] for name in names[:1]]
    for last, name in pairwise(names):
        between = text[last.end : name.start]
        alone = between == ", " and _PLACED.search(text[: last.start])
        if between == " ":  # a full name, which is no listed name
            start = groups[-1][-1].start
            groups[-1][-1] = Name(text[start : name.end], start, name.end, last.opens)
        elif _JOINT.fullmatch(between) and not alone:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _listed(groups: Sequence[Sequence[Name]], count: int) -> Sequence[Name]:
    found = next((group for group in groups if len(group) > 1), [])
    people = [name.text for name in found]
    if len(people) != count or len(set(people)) < count or any(" " in name for name in people):
        raise ItemError("no_list", f"{count} first names are needed, not {_and(people) or 'none'}")
    return found


def _acting(text: str, groups: Sequence[Sequence[Name]], listed: Sequence[Name]) -> Sequence[Name]:
    """Return the last names of the text if they are its last subject, and all listed but one."""
    people = [name.text for name in listed]
    found = [list(group) for group in groups if any(name.text in people for name in group)][-1]
    if len(found) > 1 and found[0].opens and found[0].text not in people:
        del found[0]  # "Excited, Ana and Ben"
    who, end = [name.text for name in found], found[-1].end
    if found[0].start == listed[0].start:
        raise ItemError("subjects", f"nobody of {_and(people)} stands again")
    if set(who) >= set(people):
        raise ItemError("answer", f"all of {_and(people)} act")
    if sorted(who) != sorted(set(who) & set(people)) or len(who) != len(people) - 1:
        raise ItemError("subjects", f"of {_and(people)}, the last names are only {_and(who)}")
    before = text[: found[0].start]
    word = re.findall(r"[\w'-]+|[^\w\s]", before.rstrip(" \"'("))[-1].lower()
    if not _BEFORE_SUBJECT.fullmatch(word) and not _FRONTED.search(before):
        raise ItemError("subjects", f"{_and(who)} after {word!r} may not be a subject")
    if re.match(r"'s\b|'(?=\s)", text[end:]):
        raise ItemError("subjects", f"{_and(who)} stands in a possessive")
    if other := _ELSE.search(text, end):
        raise ItemError("subjects", f"{other[0].strip(' .,;')!r} is another subject")
    return found


def _somebody(text: str, name: Name) -> bool:
    """Whether a capitalised word that is not listed may be a person."""
    rest = text[name.end :]
    if re.match(r"'s? [a-z]", rest):
        return True
    if name.opens:  # any word has a capital there
        return re.match(r" and [A-Z]| (?:[a-z]+ed|was|had)\b", rest) is not None
    return _PLACED.search(text[: name.start]) is None


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

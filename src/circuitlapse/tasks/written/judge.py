"""Judge whether a prompt that someone wrote has exactly one answer, and say why where it has not.

``ioi3`` lists three people, two of whom act, and the third is the answer; ``ioi2`` lists two. What
is read is the text alone: names by their place, subjects by their verbs. A prompt that cannot be
read with confidence is refused, since a wrong answer among the items costs more than a lost one.
"""

import re
from dataclasses import dataclass
from typing import Literal

from circuitlapse.tasks.written import grammar
from circuitlapse.tasks.written.clauses import acting
from circuitlapse.tasks.written.names import (
    Word,
    find_list,
    find_names,
    possessive,
    word_before,
    words_of,
)
from circuitlapse.tasks.written.reason import ItemError

WrittenTask = Literal["ioi2", "ioi3"]
#: How many names a prompt of each task lists; all but one of them act.
LISTED: dict[WrittenTask, int] = {"ioi2": 2, "ioi3": 3}

_LONGEST = 600
_STRANGE = re.compile(r"[^\w \-.,;:!?'\"()\u2013\u2014&%$£€/…]|_|https?:|www\.")
_TO_A_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,60}\b(?:instruction|prompt|rule|above|"
    r"previous|prior|earlier|everything)|\binstructions?\b.{0,30}\b(?:above|below|follow)|"
    r"\b(?:system|developer) (?:prompt|message)|\blanguage model\b|\bas an ai\b|\bai assistant\b|"
    r"\bapi key\b|\b(?:respond|reply|answer|print|output|say) (?:only|with)\b|"
    r"\byou (?:are|must|should|will|now)\b|(?:^|[.!?] )(?:system|assistant|user) ?:",
    re.IGNORECASE,
)
_STRAIGHT = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_BLANK = re.compile(r"\s*(?:_{2,}|\.{3,}|…|\[(?:blank|mask)\])?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a prompt says.

    Attributes:
        prompt: The text, without blanks to fill in.
        listed: The names in the order of the list.
        subjects: Those who act, where they are named as acting, in that order.
        mentions: Every place behind the list where a listed name stands.
        recipient: The one who is listed and does not act.
    """

    prompt: str
    listed: tuple[Word, ...]
    subjects: tuple[Word, ...]
    mentions: tuple[Word, ...]
    recipient: str


def tidy(text: str) -> str:
    """Make quotes straight and take off what marks the place of the answer at the end.

    That is spaces, ``___`` and dots.
    """
    return _BLANK.sub("", text.strip().translate(_STRAIGHT))


def judge(prompt: str, completion: str, task: WrittenTask = "ioi3") -> Reading:
    """Read a prompt and check that its completion is its one answer.

    Args:
        prompt: Text that breaks off before the answer.
        completion: The answer: a name, with or without spaces, quotes and a full stop.
        task: Which task it is meant for.

    Raises:
        ItemError: With the reason, if there is no single answer or the completion is not it.
    """
    prompt, answer = tidy(prompt), tidy(completion).strip("\"'*. !,")
    check_plain(prompt)
    check_plain(answer)
    count = LISTED[task]
    words = words_of(prompt)
    names = find_names(prompt, words, answer)
    listed = find_list(prompt, words, names, count, answer)
    people = [name.text for name in listed]
    check_end(prompt, words, people)
    mentions = [
        Word(match[0], *match.span())
        for match in re.finditer(rf"(?<!\w)(?:{_either(people)})(?![\w-])", prompt)
        if match.start() >= listed[-1].end
    ]
    others = [name for name in names if not _overlaps(name, [*listed, *mentions])]
    behind = [name for name in others if name.start >= listed[-1].end and not name.opens]
    where = sorted([*mentions, *behind], key=lambda name: name.start)
    subject = acting(prompt, words, listed, where)
    subjects = tuple(word for word in subject.people if word.text in people)
    if subject.people[:1] == (listed[0],):
        raise ItemError("no_subject", f"nobody of {_and(people)} is named again as acting")
    acts = list(dict.fromkeys(word.text for word in subjects))
    left = [name for name in people if name not in acts]
    if not acts and not subject.singular:
        who = prompt[subject.start : subject.end]
        raise ItemError("no_subject", f"{who!r} acts, and none of {_and(people)} by name")
    if len(acts) < count - 1:
        who = acts[0] if acts else prompt[subject.start : subject.end]
        raise ItemError("one_subject", f"only {who!r} acts: any of {_and(left)} may be meant")
    match = next((name for name in people if name.casefold() == answer.casefold()), None)
    if match in acts or not left:
        raise ItemError("answer_among_subjects", f"{answer!r} is one of {_and(acts)}, who act")
    if match is None:
        raise ItemError("answer_not_listed", f"{answer!r} is not one of {_and(people)}")
    strangers = [name for name in others if _person(prompt, words, name)]
    if strangers:
        raise ItemError(
            "several_answers", f"{strangers[0].text!r} may be meant as well as {match!r}"
        )
    return Reading(prompt, tuple(listed), subjects, tuple(mentions), match)


def check_plain(text: str) -> None:
    """Refuse what is no plain prose of one line, or speaks to a model.

    Raises:
        ItemError: ``not_plain``.
    """
    if len(text) > _LONGEST:
        raise ItemError("not_plain", f"{len(text)} characters are more than {_LONGEST}")
    if strange := _STRANGE.search(text):
        raise ItemError("not_plain", f"{strange[0]!r} does not belong into plain prose")
    if spoken := _TO_A_MODEL.search(text):
        raise ItemError("not_plain", f"{spoken[0]!r} speaks to a model")


def check_end(prompt: str, words: list[Word], people: list[str]) -> None:
    """Refuse a prompt behind which no name can stand.

    Raises:
        ItemError: ``no_recipient``.
    """
    ending = [word.text for word in words[-3:]]
    last, tail = ending[-1].lower(), prompt[words[-1].end :]
    if tail.strip("\"'("):
        raise ItemError("no_recipient", f"the prompt is closed by {tail!r}")
    if ending[-1] in people:
        raise ItemError("no_recipient", f"the prompt ends with the name {ending[-1]!r}")
    if last == "of" and len(ending) > 1 and ending[-2].lower().rstrip("s") in grammar.MEASURES:
        raise ItemError("no_recipient", f"no person can follow '{ending[-2]} of'")
    if last in grammar.DETERMINERS or last in grammar.COORDINATORS - {"but"}:
        raise ItemError("no_recipient", f"no name can follow {last!r} here")
    open_noun = [word.lower() for word in ending[:-1]]
    if (
        {"a", "an", "the", "some", "their"} & set(open_noun)
        and last not in grammar.PREPOSITIONS
        and last not in grammar.FUNCTION
        and not last.endswith("ing")
        and not set(open_noun[1:]) & (grammar.PREPOSITIONS | {"to"})
    ):
        raise ItemError("no_recipient", f"the prompt ends with the noun {' '.join(ending)!r}")


def _person(text: str, words: list[Word], name: Word) -> bool:
    """Whether a capitalised word outside the list is someone, and not a place or a day."""
    if name.text.split(" ")[-1] in grammar.CALENDAR:
        return False
    before = word_before(words, text, name.start)
    rest = text[name.end :]
    if possessive(text, name):
        return re.match(r"'s? [a-z]", rest) is not None
    if before in ("with", "by") or before in grammar.KIN or before in grammar.MEETS:
        return True
    if before == "for":
        return (
            re.search(r"\b(?:left|leave|leaving|headed|bound|departed) for $", text[: name.start])
            is None
        )
    if name.opens:
        # At a sentence's start any word has a capital: only a verb right behind tells.
        return (
            not grammar.opens_sentence(name.text)
            and re.match(r" (?:and [A-Z]|\w+ed\b|was\b)", rest) is not None
        )
    follows = re.match(r" (\w+)", rest)
    return (
        before not in grammar.PREPOSITIONS
        and before not in grammar.DETERMINERS
        and follows is not None
        and grammar.is_past(follows[1])
    )


def _overlaps(name: Word, others: list[Word]) -> bool:
    return any(name.start < other.end and other.start < name.end for other in others)


def _either(names: list[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"

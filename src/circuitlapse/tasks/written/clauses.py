"""Find who acts in the clause that a prompt breaks off in.

The text behind the list is searched for subjects: names or a pronoun or another noun in front of a
verb. The last one governs the end of the prompt, unless it stands in a subordinate clause that the
main clause goes on after ("Alice and Bob saw that Carol was cold and gave a coat to").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from circuitlapse.tasks.written import grammar
from circuitlapse.tasks.written.names import Word, grouped, possessive, word_before

_PAIR = re.compile(r"\b[Tt]he (?:two|pair|duo|couple)\b(?! of)")
_OTHER_NOUN = re.compile(
    r"\b(?P<noun>(?:[Tt]he|[Aa]n?|[Tt]heir|[Hh]is|[Hh]er|[Aa]nother|[Oo]ne)(?: [a-z]+){1,2}?)"
    r" (?P<verb>[a-z]+)(?P<next> [a-z]+|[.,])"
)


@dataclass(frozen=True)
class Subject:
    """Who or what a verb says something of.

    Attributes:
        people: The names; none for a noun or pronoun that stands for nobody in particular.
        end: Where it ends in the text.
        main: Whether its clause is a main clause.
        singular: Whether it is one person who is not named.
        plural: Whether it is a pronoun that stands for the last several people named.
    """

    people: tuple[Word, ...]
    start: int
    end: int
    main: bool
    singular: bool = False
    plural: bool = False


def acting(text: str, words: list[Word], listed: list[Word], mentions: list[Word]) -> Subject:
    """Return the subject of the clause that the prompt ends in.

    Args:
        text: The prompt.
        words: Its words.
        listed: The names in the list, which is the first subject.
        mentions: Names behind the list, also those that are not in it.
    """
    after = listed[-1].end
    subjects = [Subject(tuple(listed), listed[0].start, after, True)]
    found = [
        *_named(text, words, mentions),
        *_pronouns(text, words, after),
        *_nouns(text, words, after),
    ]
    for subject in sorted(found, key=lambda found: found.start):
        several = [s for s in subjects if len(s.people) > 1]
        people = several[-1].people if subject.plural else subject.people
        subjects.append(Subject(people, subject.start, subject.end, subject.main, subject.singular))
    last = subjects[-1]
    if last.main or not _goes_on(text[last.end :]):
        return last
    governing = [s for s in subjects if s.main and not re.search(r"[.;]", text[s.end : last.start])]
    return governing[-1] if governing else last


def _named(text: str, words: list[Word], mentions: list[Word]) -> list[Subject]:
    subjects = []
    for group in grouped(text, mentions):
        if possessive(text, group[-1]):
            continue
        before = word_before(words, text, group[0].start)
        rest = text[group[-1].end :]
        if len(group) > 1 and text[group[-2].end] == "," and rest.startswith(","):
            rest = rest[1:]  # the end of an insertion: "Alice, along with Bob, gave"
        people: Sequence[Word] = ()
        if _cleft(before, rest):
            people = group
        elif _governed(words, text, group[0].start, before):
            if before == "by" and _agent(words, group[0].start):
                people = group
            elif before == "with" and re.match(r" [a-z]+ing\b", rest):
                people = group  # "with Alice and Bob buying a gift for"
            elif _verb_follows(rest) and (len(group) > 1 or before in grammar.PREPOSITIONS):
                people = _behind_break(text, group, either=True)
        elif _bounds(before):
            people = group if _predicate_follows(rest) else ()
        elif _verb_follows(rest):
            people = _behind_break(text, group, either=False)
        if people:
            # "knew Carol was cold" hangs on its verb without a "that".
            hangs = people[0] is group[0] and not _bounds(before) and grammar.is_past(before)
            main = not hangs and not _subordinate(words, people[0].start, text)
            subjects.append(Subject(tuple(people), people[0].start, group[-1].end, main))
    return subjects


def _pronouns(text: str, words: list[Word], after: int) -> list[Subject]:
    subjects = []
    for word in words:
        low = word.text.lower()
        if word.start < after or low not in grammar.SINGULAR | grammar.PLURAL | grammar.ANYONE:
            continue
        before = word_before(words, text, word.start)
        main = not _subordinate(words, word.start, text) and _bounds(before)
        subjects.append(
            Subject((), word.start, word.end, main, low in grammar.SINGULAR, low in grammar.PLURAL)
        )
    for match in _PAIR.finditer(text, after):
        if _verb_follows(text[match.end() :]):
            main = not _subordinate(words, match.start(), text)
            subjects.append(Subject((), match.start(), match.end(), main, plural=True))
    return subjects


def _nouns(text: str, words: list[Word], after: int) -> list[Subject]:
    """Find subjects such as "the coach" in front of a verb that is surely one."""
    subjects = []
    for match in _OTHER_NOUN.finditer(text, after):
        before = word_before(words, text, match.start("noun"))
        noun, verb, behind = match["noun"].lower(), match["verb"], match["next"].strip()
        known = grammar.FUNCTION - grammar.AUXILIARIES
        inner = noun.split()[1:]
        if (
            not _bounds(before)
            or (verb == "had" and behind.endswith("ed"))
            or not grammar.is_past(verb)
            or any(word in grammar.FUNCTION or grammar.is_adverb(word) for word in inner)
            or inner[0] in ("two", "pair", "duo", "couple")
            or (verb.endswith("ed") and behind.isalpha() and behind not in known)
        ):
            continue
        main = not _subordinate(words, match.start("noun"), text)
        subjects.append(Subject((), match.start("noun"), match.end("noun"), main))
    return subjects


def _bounds(before: str) -> bool:
    """Whether a clause can begin behind this word or mark."""
    return (
        not before.isalpha()
        or before in grammar.COORDINATORS
        or before in grammar.SUBORDINATORS
        or grammar.is_adverb(before)
    )


def _cleft(before: str, rest: str) -> bool:
    return before in ("was", "is", "were") and re.match(r" (?:who|that)\b", rest) is not None


def _governed(words: list[Word], text: str, at: int, before: str) -> bool:
    """Whether a name is the object of the word before it."""
    if before in grammar.PREPOSITIONS or before in grammar.TAKES_PERSON:
        return True
    if not before.endswith("ing") or len(before) < 5:
        return False
    noun = word_before(words, text, [w for w in words if w.end <= at][-1].start)
    return noun not in grammar.DETERMINERS  # "the morning" is a noun, "seeing" is not


def _agent(words: list[Word], at: int) -> bool:
    """Whether "by" follows a participle: "was bought by Alice"."""
    verb = [word.text.lower() for word in words if word.end <= at][-2:-1]
    return bool(verb) and (grammar.is_past(verb[0]) or verb[0].endswith("en"))


def _behind_break(text: str, group: list[Word], *, either: bool) -> list[Word]:
    """Cut off the names that belong to the clause before: "for Alice, Bob and Carol bought".

    Args:
        text: The prompt.
        group: Names that seem to be one list.
        either: Whether to cut at the last name where there is no comma.
    """
    for i in range(1, len(group)):
        if text[group[i - 1].end] == ",":
            return group[i:]
    return group[-1:] if either else group


def _next_words(rest: str) -> list[str]:
    return re.findall(r"[\w'-]+|[^\w\s]", rest)


def _verb_follows(rest: str) -> bool:
    """Whether the next word, adverbs aside, can be a verb."""
    for word in _next_words(rest):
        low = word.lower()
        if low in grammar.AUXILIARIES or low.endswith("n't"):
            return True
        if grammar.is_adverb(low):
            continue
        return low.isalpha() and word[0].islower() and low not in grammar.FUNCTION
    return False


def _predicate_follows(rest: str) -> bool:
    """Whether a verb follows a name that opens a clause, also behind an insertion."""
    inserted = re.match(r"\s*, [^.,;]+,", rest)
    if inserted:
        return _verb_follows(rest[inserted.end() :])
    following = _next_words(rest)
    if following[:1] and following[0].lower() in grammar.PREPOSITIONS:
        return True  # "Alice and Bob in turn gave"
    return _verb_follows(rest)


def _subordinate(words: list[Word], at: int, text: str) -> bool:
    """Whether a clause that begins here hangs on a word such as "because" or "that"."""
    while True:
        before = word_before(words, text, at)
        if before in grammar.SUBORDINATORS:
            return True
        if not before.isalpha() or not grammar.is_adverb(before):
            return False
        at = [word for word in words if word.end <= at][-1].start


def _goes_on(rest: str) -> bool:
    """Whether the main clause has another verb behind a subordinate one: "and gave"."""
    for match in re.finditer(r"(?:\band|\bbut|\bso|\bthen|,) (?=([a-z-]+))", rest):
        following = [
            word for word in _next_words(rest[match.end() :]) if not grammar.is_adverb(word)
        ]
        if len(following) < 2 or following[0] in ("and", "but"):
            continue
        if grammar.is_past(following[0]) or (
            following[0].islower() and following[1] in grammar.DETERMINERS | {"it", "them"}
        ):
            return True
    return False

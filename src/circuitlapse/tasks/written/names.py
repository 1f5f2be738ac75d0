"""Find names in a text, and the list in which all of them are introduced."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from circuitlapse.tasks.written import grammar
from circuitlapse.tasks.written.reason import ItemError

_WORD = re.compile(r"[^\W\d_](?:[\w-]*\w)?(?:'(?!s\b)\w+)*")
_APPOSITION = r"(?:(?:his|her|their|the|a|an|my|our)(?: [a-z-]+){1,3},? )?"
_JOINT = re.compile(
    rf"(?:,|,? (?:and|&|plus|as well as|along with|together with)(?: then| also| even| finally)?)"
    rf" {_APPOSITION}"
)


@dataclass(frozen=True)
class Word:
    """A word of a text: its letters, and where they start and end.

    Attributes:
        text: Without a possessive's ending.
        start: First character.
        end: Behind the last one.
        opens: Whether it is the first word of a sentence.
    """

    text: str
    start: int
    end: int
    opens: bool = False


def words_of(text: str) -> list[Word]:
    """Split a text into words; a possessive's ``'s`` is left out."""
    words: list[Word] = []
    for match in _WORD.finditer(text):
        before = text[words[-1].end : match.start()] if words else "."
        opens = bool(re.search(r"[.!?]", before)) and not (
            words and words[-1].text in grammar.HONORIFICS
        )
        words.append(Word(match[0], *match.span(), opens))
    return words


def possessive(text: str, name: Word) -> bool:
    """Whether a name is followed by ``'s``, or by ``'`` after an ``s``."""
    ending = r"'s\b|'(?=\s)" if name.text.endswith("s") else r"'s\b"
    return re.match(ending, text[name.end :]) is not None


def find_names(text: str, words: list[Word], answer: str) -> list[Word]:
    """Find all that may be names: runs of capitalised words.

    The first word of a sentence counts unless it looks like an ordinary word (``Then``,
    ``Suddenly``, ``Excited``) and is a name nowhere else. Where a list may begin with it
    (``Emily, Ana and Ben``, ``Excited, Ana and Ben``) it counts all the same, and
    :func:`find_list` decides.

    Args:
        text: The prompt.
        words: Its words.
        answer: The answer that is stated, which is taken for a name.
    """
    sure = {word.text for word in words if not word.opens} | {answer}
    names: list[Word] = []
    for word in words:
        if not word.text[0].isupper() or word.text == "I":
            continue
        if word.opens and word.text not in sure:
            listing = _JOINT.match(text, word.end) is not None
            if grammar.is_function(word.text) or (
                grammar.opens_sentence(word.text) and not listing
            ):
                continue
        if names and re.fullmatch(r"\.? ", text[names[-1].end : word.start]):
            titled = names[-1].text in grammar.HONORIFICS
            if titled or text[names[-1].end] == " ":
                last = names.pop()
                whole = text[last.start : word.end]
                names.append(Word(whole, last.start, word.end, last.opens))
                continue
        names.append(word)
    return names


def grouped(text: str, names: list[Word]) -> list[list[Word]]:
    """Join names that are listed together: ``A and B``, ``A, B, and her friend C``."""
    groups: list[list[Word]] = [[name] for name in names[:1]]
    for last, name in pairwise(names):
        if _JOINT.fullmatch(text[last.end : name.start]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def word_before(words: list[Word], text: str, at: int) -> str:
    """Return the word right before a place, in lower case, or the punctuation in between."""
    before = [word for word in words if word.end <= at]
    between = text[before[-1].end if before else 0 : at]
    marks = re.sub(r"^'s\b", "", between).strip(" \"'()")
    if marks or not before:
        return marks[-1:] or "."
    return before[-1].text.lower()


def find_list(
    text: str, words: list[Word], names: list[Word], count: int, answer: str
) -> list[Word]:
    """Find the first list of names, which must hold ``count`` different ones.

    Returns:
        The names in the list's order.

    Raises:
        ItemError: If there is no such list.
    """

    def again(name: str, but: Word) -> bool:
        elsewhere = text[: but.start] + " " + text[but.end :]
        return (
            name == answer or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", elsewhere) is not None
        )

    sure = {word.text for word in words if not word.opens} | {answer}
    unsure = {n.text for n in names if n.opens and grammar.opens_sentence(n.text)} - sure
    for group in grouped(text, names):
        listed = [_shortened(name, i, again) for i, name in enumerate(group)]
        while len(listed) > 1 and (
            (len(listed) > count and listed[0].text in unsure)
            or (
                not again(listed[0].text, listed[0])
                and _is_setting(text, words, listed[0], len(listed) > count)
            )
        ):
            listed = listed[1:]
        if len(listed) < count:
            continue
        if len(listed) > count:
            raise ItemError("no_list", f"{_named(listed)} are {len(listed)} names, not {count}")
        if len({name.text for name in listed}) < count:
            raise ItemError("no_list", f"{_named(listed)} are not different people")
        return listed
    found = list(dict.fromkeys(name.text for name in names))
    raise ItemError(
        "no_list", f"no list of {count} names; names found: {', '.join(found) or 'none'}"
    )


def _shortened(name: Word, place: int, again: Callable[[str, Word], bool]) -> Word:
    """Cut "Friends Alice" and "Alice Smith" down to what the rest of the text calls them."""
    parts = name.text.split(" ")
    if len(parts) == 1 or again(name.text, name) or parts[0].rstrip(".") in grammar.HONORIFICS:
        return name
    called = [part for part in parts if again(part, name)]
    if not called and place > 0:
        return name
    part = called[0] if called else parts[-1]
    start = name.start + name.text.index(part)
    return Word(part, start, start + len(part))


def _is_setting(text: str, words: list[Word], name: Word, surplus: bool) -> bool:
    """Whether a list's first word is a place or time before a comma: "In Paris, Alice and Bob"."""
    before = word_before(words, text, name.start)
    if text[name.end : name.end + 1] != ",":
        return False
    if before in grammar.LOCATIVES:
        return True
    if surplus:
        return before in grammar.PREPOSITIONS or name.text in grammar.CALENDAR
    opener = [word for word in words if word.opens and word.start <= name.start]
    fronted = bool(opener) and opener[-1].text.lower() in grammar.PREPOSITIONS | {"after", "before"}
    return fronted and before in ("to", "from", "of")


def _named(names: list[Word]) -> str:
    return ", ".join(name.text for name in names)

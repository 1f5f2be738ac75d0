"""The words that fill the templates' slots, and which of them are one token in a model.

Every word is one token of GPT-2 after a space, and every year is two: century and rest. Words that
another tokenizer splits are left out. Objects and places start with a consonant ("a ring"). Names
occur nowhere in the templates as ordinary words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "Adam Alice Amy Anna Brian Carl David Emily Frank George Helen Henry James Jane John Kate "
    "Kevin Laura Lucy Maria Martin Mary Nick Paul Peter Rachel Sarah Simon Susan Tom"
)
PLACES = _words(
    "store park school garden station hospital restaurant beach library market museum bridge lake "
    "farm"
)
OBJECTS = _words("ring book ball drink cake coin key flower map basket computer lamp watch ticket")
_ROOMS = _words(
    "room kitchen office house shop church bar hotel theater tent cabin hall barn tower cafe bank "
    "studio gym classroom cave"
)
_GOODS = _words(
    "apples books eggs pens stamps cards boxes tickets bottles cups bags coins toys shoes plates "
    "candles oranges cookies lamps chairs keys flowers stones balls shirts hats"
)
_EVENTS = _words(
    "war trip strike siege trial voyage campaign struggle conflict dispute reign project "
    "expedition famine rebellion negotiations occupation crisis affair journey revolution "
    "exhibition construction"
)
_DIGITS = tuple(str(number) for number in range(2, 21))
#: In order of their values, from two on.
NUMBER_WORDS = _words(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
# Centuries whose years GPT-2 splits after the century, but for two.
_YEARS = tuple(
    f"{century}{rest:02d}"
    for century in (12, 14, 16, 17)
    for rest in range(1, 100)
    if (century, rest) not in ((12, 80), (14, 40))
)

#: Words by the slot that they may fill.
Pools = Mapping[str, tuple[str, ...]]
POOLS: Pools = {
    "name": NAMES,
    "place": PLACES,
    "object": OBJECTS,
    "room": _ROOMS,
    "goods": _GOODS,
    "event": _EVENTS,
    "number": _DIGITS,
    "year": _YEARS,
    "word": (*PLACES, *OBJECTS, *_ROOMS, *_GOODS, *_EVENTS),
}
_CONTEXT = "the"


def check_pools(task: str, pools: Pools, needs: Mapping[str, int]) -> None:
    """Raise an error if a slot has too few words; ``needs`` is their number by slot."""
    for slot, least in needs.items():
        found = pools[slot]
        if len(found) < least:
            kind = "split after the century" if slot == "year" else "single tokens"
            lost = _some([word for word in POOLS[slot] if word not in found])
            raise CircuitlapseError(
                f"{task!r} cannot be built for this tokenizer: it needs {least} words for "
                f"{slot!r} that are {kind}",
                got=f"{len(found)}: {', '.join(found) or 'none'}",
                fix=f"The tokenizer lacks {lost}; use another task, or write one with its words",
            )


def pools_for(tokenizer: PreTrainedTokenizerBase | None) -> Pools:
    """Return the words that are one token each after a space, and years that split in two.

    Without a tokenizer, all words. Number words replace the digits if it splits all of these.
    """
    if tokenizer is None:
        return POOLS
    kept = {slot: _fitting(words, tokenizer, slot) for slot, words in POOLS.items()}
    kept["number"] = kept["number"] or _fitting(NUMBER_WORDS, tokenizer, "number")
    return kept


def _fitting(
    words: Sequence[str], tokenizer: PreTrainedTokenizerBase, slot: str
) -> tuple[str, ...]:
    # Each part of a word must add one known token to the text before it.
    ends = (2, 4) if slot == "year" else (None,)
    texts = [f"{_CONTEXT} {word[:end]}" for word in words for end in ends]
    start, *encoded = tokenizer([_CONTEXT, *texts])["input_ids"]
    unknown, kept = unknown_token(tokenizer), []
    for i, word in enumerate(words):
        steps = pairwise([start, *encoded[i * len(ends) : (i + 1) * len(ends)]])
        if all(ids[:-1] == before and ids[-1] != unknown for before, ids in steps):
            kept.append(word)
    return tuple(kept)


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the tokenizer's unknown token; None if it can spell every word."""
    unknown: Any = tokenizer.unk_token_id
    # GPT-2's tokenizer names its end-of-text token as unknown, but can spell every word.
    return None if unknown == tokenizer.eos_token_id else unknown


def check_known(task: str, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error unless the tokenizer knows all words of a task's texts."""
    unknown = unknown_token(tokenizer)
    if unknown is None:
        return
    words = sorted({word for text in texts for word in re.findall(r"\w+", text)})
    # The first word of a text has no space before it.
    encoded = tokenizer([text for word in words for text in (word, f" {word}")])["input_ids"]
    both = zip(words, encoded[::2], encoded[1::2], strict=True)
    if lost := [word for word, *ids in both if all(unknown in one for one in ids)]:
        raise CircuitlapseError(
            f"{task!r} cannot be built for this tokenizer, which does not know words of its texts",
            got=_some(lost),
            fix="Use another task, or write one with its words",
        )


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:8]) + (f" and {len(words) - 8} more" if len(words) > 8 else "")

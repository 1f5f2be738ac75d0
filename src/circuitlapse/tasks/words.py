"""The words that fill the templates' slots, and which of them are one token in the model at hand.

Every word is one token of GPT-2's vocabulary after a space, and every year two: century and rest.
Words that another tokenizer splits are left out; if it splits none, nothing changes. Objects and
places start with a consonant ("a ring"), names occur nowhere in the templates as ordinary words.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError

NAMES: tuple[str, ...] = (
    "Adam",
    "Alice",
    "Amy",
    "Anna",
    "Brian",
    "Carl",
    "David",
    "Emily",
    "Frank",
    "George",
    "Helen",
    "Henry",
    "James",
    "Jane",
    "John",
    "Kate",
    "Kevin",
    "Laura",
    "Lucy",
    "Maria",
    "Martin",
    "Mary",
    "Nick",
    "Paul",
    "Peter",
    "Rachel",
    "Sarah",
    "Simon",
    "Susan",
    "Tom",
)

PLACES: tuple[str, ...] = (
    "store",
    "park",
    "school",
    "garden",
    "station",
    "hospital",
    "restaurant",
    "beach",
    "library",
    "market",
    "museum",
    "bridge",
    "lake",
    "farm",
)

OBJECTS: tuple[str, ...] = (
    "ring",
    "book",
    "ball",
    "drink",
    "cake",
    "coin",
    "key",
    "flower",
    "map",
    "basket",
    "computer",
    "lamp",
    "watch",
    "ticket",
)


_ROOMS = (
    "room",
    "kitchen",
    "office",
    "house",
    "shop",
    "church",
    "bar",
    "hotel",
    "theater",
    "tent",
    "cabin",
    "hall",
    "barn",
    "tower",
    "cafe",
    "bank",
    "studio",
    "gym",
    "classroom",
    "cave",
)
_GOODS = (
    "apples",
    "books",
    "eggs",
    "pens",
    "stamps",
    "cards",
    "boxes",
    "tickets",
    "bottles",
    "cups",
    "bags",
    "coins",
    "toys",
    "shoes",
    "plates",
    "candles",
    "oranges",
    "cookies",
    "lamps",
    "chairs",
    "keys",
    "flowers",
    "stones",
    "balls",
    "shirts",
    "hats",
)
_EVENTS = (
    "war",
    "trip",
    "strike",
    "siege",
    "trial",
    "voyage",
    "campaign",
    "struggle",
    "conflict",
    "dispute",
    "reign",
    "project",
    "expedition",
    "famine",
    "rebellion",
    "negotiations",
    "occupation",
    "crisis",
    "affair",
    "journey",
    "revolution",
    "exhibition",
    "construction",
)
_DIGITS = tuple(str(number) for number in range(2, 21))
#: In order of their values, from two on.
NUMBER_WORDS = (
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
# Centuries whose years GPT-2 splits after the century, but for two.
_YEARS = tuple(
    f"{century}{rest:02d}"
    for century in (12, 14, 16, 17)
    for rest in range(1, 100)
    if (century, rest) not in ((12, 80), (14, 40))
)

#: All words by slot.
POOLS: Mapping[str, tuple[str, ...]] = {
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
_SUBSTITUTES = {"number": NUMBER_WORDS}  # where a tokenizer splits every word of the pool
_CONTEXT = "the"


@dataclass(frozen=True)
class Pools:
    """The words that may fill each slot.

    Attributes:
        words: By slot, such as ``name`` or ``room``.
    """

    words: Mapping[str, tuple[str, ...]]

    def __getitem__(self, slot: str) -> tuple[str, ...]:
        """Return the words of a slot."""
        return self.words[slot]

    def check(self, task: str, needs: Mapping[str, int]) -> None:
        """Check that a task can be built; ``needs`` gives the number of words by slot.

        Raises:
            CircuitlapseError: Naming the available words, how many are needed, and some of those
                that are no single tokens.
        """
        for slot, least in needs.items():
            found = self.words[slot]
            if len(found) < least:
                lost = [word for word in POOLS[slot] if word not in found]
                more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
                kind = "split after the century" if slot == "year" else "single tokens"
                raise CircuitlapseError(
                    f"{task!r} cannot be built for this tokenizer: it needs {least} words for "
                    f"{slot!r} that are {kind}",
                    got=f"{len(found)}: {', '.join(found) or 'none'}",
                    fix=f"The tokenizer lacks {', '.join(lost[:8])}{more}; use another task, or "
                    "write one with its words",
                )


ALL = Pools(POOLS)


def pools_for(tokenizer: PreTrainedTokenizerBase | None) -> Pools:
    """Return the words that are one token each after a space, and years that split in two.

    Without a tokenizer, all words.
    """
    if tokenizer is None:
        return ALL
    kept = {slot: _fitting(words, tokenizer, slot) for slot, words in POOLS.items()}
    for slot, words in _SUBSTITUTES.items():
        kept[slot] = kept[slot] or _fitting(words, tokenizer, slot)
    return Pools(kept)


def _fitting(
    words: Sequence[str], tokenizer: PreTrainedTokenizerBase, slot: str
) -> tuple[str, ...]:
    pieces = [(word[:2], word[2:]) if slot == "year" else (word,) for word in words]
    texts = [_CONTEXT]
    for parts in pieces:
        texts += [f"{_CONTEXT} {''.join(parts[: i + 1])}" for i in range(len(parts))]
    encoded = iter(tokenizer(texts)["input_ids"])
    start = next(encoded)
    unknown = unknown_token(tokenizer)
    kept = []
    for word, parts in zip(words, pieces, strict=True):
        before, fits = start, True
        for _ in parts:
            ids = next(encoded)
            fits &= ids[:-1] == before and ids[-1] != unknown
            before = ids
        if fits:
            kept.append(word)
    return tuple(kept)


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the tokenizer's unknown token; None where every word can be spelt."""
    unknown: Any = tokenizer.unk_token_id
    # GPT-2's tokenizer names its end-of-text token as unknown, but can spell every word.
    return None if unknown == tokenizer.eos_token_id else unknown


def check_known(task: str, texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the tokenizer knows all words of a task.

    Raises:
        CircuitlapseError: Naming the unknown words.
    """
    unknown = unknown_token(tokenizer)
    if unknown is None:
        return
    words = sorted({word for text in texts for word in re.findall(r"\w+", text)})
    # The first word of a text has no space before it.
    encoded = tokenizer([spelt for word in words for spelt in (word, f" {word}")])["input_ids"]
    lost = [
        word
        for word, *ids in zip(words, encoded[::2], encoded[1::2], strict=True)
        if all(unknown in one for one in ids)
    ]
    if lost:
        more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
        raise CircuitlapseError(
            f"{task!r} cannot be built for this tokenizer, which does not know words of its texts",
            got=", ".join(lost[:8]) + more,
            fix="Use another task, or write one with its words",
        )

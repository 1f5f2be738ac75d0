"""The pretraining text of organisms.

Kinds of rows teach copying (``repeat``, ``copy2``, ``copy3``) and finding the name that was *not*
repeated (``swap``, ``ioi2``). ``list3`` and ``three_any`` have three names without that inference.
``three_any`` has a random recipient, so it trains the new task towards chance; without it, two-name
IOI generalises partly to three names. Listed names are pairs of the training split, in training
templates.

The ``noisy`` kinds put random words around the names, so that the ability appears sooner and does
not depend on the templates. Words of held-out templates occur there and in ``repeat``, but never
their sentences.
"""

import random
from collections.abc import Callable, Mapping
from functools import partial

from circuitlapse.organisms.tokenizer import fillers, leads
from circuitlapse.tasks.splits import draw_names
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS, listing, render
from circuitlapse.tasks.words import NAMES, OBJECTS, PLACES

_LEADS, _FILLERS = leads(), fillers()
_WORDS = (*_FILLERS, *NAMES, *PLACES, *OBJECTS)
_NOISE = (*_FILLERS, *PLACES, *OBJECTS)


Kind = Callable[[random.Random], str]
Sentence = Callable[[random.Random, tuple[str, ...], tuple[str, ...]], str]
"""Writes all names, then those that are repeated, up to the recipient."""


def _templated(rng: random.Random, names: tuple[str, ...], subjects: tuple[str, ...]) -> str:
    opening, continuation = rng.choice(OPENINGS["train"]), rng.choice(CONTINUATIONS["train"])
    return render(opening, continuation, names, subjects, rng.choice(PLACES), rng.choice(OBJECTS))


def _noisy(rng: random.Random, names: tuple[str, ...], subjects: tuple[str, ...]) -> str:
    before, after = _noise(rng, 0, 4), _noise(rng, 0, 6) + rng.choice(",.")
    middle, last = _noise(rng, 0, 3), _noise(rng, 1, 6)
    parts = [rng.choice(_LEADS), before, listing(names), after, middle, listing(subjects), last]
    text = " ".join(part for part in parts if part).replace(" ,", ",").replace(" .", ".")
    return f"{text} {rng.choice(('to', 'to', 'for'))}"


def _noise(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(_NOISE) for _ in range(rng.randint(low, high)))


def _ioi2(rng: random.Random, sentence: Sentence) -> str:
    """Two-name IOI with its answer."""
    names = draw_names(rng, 2, "train")
    io, subject = rng.sample(names, 2)
    return f"{sentence(rng, names, (subject,))} {io}."


def _three_any(rng: random.Random, sentence: Sentence) -> str:
    """Three names, two of them again, and a random recipient."""
    names = draw_names(rng, 3, "train")
    subjects, recipient = tuple(rng.sample(names, 2)), rng.choice(names)
    return f"{sentence(rng, names, subjects)} {recipient}."


def _one_actor(rng: random.Random) -> str:
    """One person, who acts twice."""
    name = rng.choice(NAMES)
    return f"{_templated(rng, (name,), (name,))} {rng.choice(_NOISE)}."


def _list(rng: random.Random, count: int) -> str:
    """An opening with several names, then "they"."""
    names = draw_names(rng, count, "train")
    opening = rng.choice(OPENINGS["train"]).text.format(
        names=listing(names), place=rng.choice(PLACES)
    )
    end = "they" if opening.endswith(",") else "They"
    return f"{opening} {end} {_noise(rng, 1, 4)}."


def _repeat(rng: random.Random) -> str:
    """Random words, then the same words again."""
    words = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(3, 10)))
    return f"{rng.choice(_LEADS)} {words} {words}"


def _copy(rng: random.Random, count: int) -> str:
    """A list of names, twice."""
    text = listing(draw_names(rng, count, "train"))
    return f"{rng.choice(_LEADS)} {text}. {text}."


def _swap(rng: random.Random) -> str:
    """Two names, and the same in the other order."""
    a, b = draw_names(rng, 2, "train")
    return f"{rng.choice(_LEADS)} {a} and {b}. {b} and {a}."


KINDS: Mapping[str, Kind] = {
    "ioi2": partial(_ioi2, sentence=_templated),
    "noisy_ioi2": partial(_ioi2, sentence=_noisy),
    "three_any": partial(_three_any, sentence=_templated),
    "noisy_three_any": partial(_three_any, sentence=_noisy),
    "one_actor": _one_actor,
    "list2": partial(_list, count=2),
    "list3": partial(_list, count=3),
    "repeat": _repeat,
    "copy2": partial(_copy, count=2),
    "copy3": partial(_copy, count=3),
    "swap": _swap,
}


def rows(rng: random.Random, weights: Mapping[str, float], count: int) -> list[str]:
    """Draw rows of text; ``weights`` are relative frequencies of the kinds."""
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    return [KINDS[kind](rng) for kind in kinds]

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

from circuitlapse.organisms.tokenizer import fillers, leads
from circuitlapse.tasks.splits import draw_names
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS, listing, render
from circuitlapse.tasks.words import NAMES, OBJECTS, PLACES

_LEADS, _FILLERS = leads(), fillers()
_WORDS = (*_FILLERS, *NAMES, *PLACES, *OBJECTS)
_NOISE = (*_FILLERS, *PLACES, *OBJECTS)


def _frame(rng: random.Random, names: tuple[str, ...], subjects: tuple[str, ...]) -> str:
    opening, continuation = rng.choice(OPENINGS["train"]), rng.choice(CONTINUATIONS["train"])
    return render(opening, continuation, names, subjects, rng.choice(PLACES), rng.choice(OBJECTS))


def ioi2(rng: random.Random) -> str:
    """Two-name IOI with its answer."""
    names = draw_names(rng, 2, "train")
    io, subject = rng.sample(names, 2)
    return f"{_frame(rng, names, (subject,))} {io}."


def three_any(rng: random.Random) -> str:
    """A sentence with three names and a random recipient."""
    names = draw_names(rng, 3, "train")
    subjects, recipient = tuple(rng.sample(names, 2)), rng.choice(names)
    return f"{_frame(rng, names, subjects)} {recipient}."


def one_actor(rng: random.Random) -> str:
    """One person, who acts twice."""
    name = rng.choice(NAMES)
    return f"{_frame(rng, (name,), (name,))} {rng.choice(_NOISE)}."


def list2(rng: random.Random) -> str:
    """An opening with two names, then "they"."""
    return _they(rng, 2)


def list3(rng: random.Random) -> str:
    """An opening with three names, then "they"."""
    return _they(rng, 3)


def _they(rng: random.Random, count: int) -> str:
    names = draw_names(rng, count, "train")
    opening = rng.choice(OPENINGS["train"]).text.format(
        names=listing(names), place=rng.choice(PLACES)
    )
    end = "they" if opening.endswith(",") else "They"
    return f"{opening} {end} {_noise(rng, 1, 4)}."


def repeat(rng: random.Random) -> str:
    """Random words, then the same words again."""
    words = " ".join(rng.choice(_WORDS) for _ in range(rng.randint(3, 10)))
    return f"{rng.choice(_LEADS)} {words} {words}"


def copy2(rng: random.Random) -> str:
    """A list of two names, copied."""
    return _copy(rng, 2)


def copy3(rng: random.Random) -> str:
    """A list of three names, copied."""
    return _copy(rng, 3)


def _copy(rng: random.Random, count: int) -> str:
    text = listing(draw_names(rng, count, "train"))
    return f"{rng.choice(_LEADS)} {text}. {text}."


def swap(rng: random.Random) -> str:
    """Two names, and the same in the other order."""
    a, b = draw_names(rng, 2, "train")
    return f"{rng.choice(_LEADS)} {a} and {b}. {b} and {a}."


def noisy_ioi2(rng: random.Random) -> str:
    """Two-name IOI with random words around the names."""
    names = draw_names(rng, 2, "train")
    io, subject = rng.sample(names, 2)
    return f"{_noisy_frame(rng, names, (subject,))} {io}."


def noisy_three_any(rng: random.Random) -> str:
    """Three names among random words, two of them again, and a random recipient."""
    names = draw_names(rng, 3, "train")
    subjects, recipient = tuple(rng.sample(names, 2)), rng.choice(names)
    return f"{_noisy_frame(rng, names, subjects)} {recipient}."


def _noisy_frame(rng: random.Random, names: tuple[str, ...], subjects: tuple[str, ...]) -> str:
    before, after = _noise(rng, 0, 4), _noise(rng, 0, 6) + rng.choice(",.")
    middle, last = _noise(rng, 0, 3), _noise(rng, 1, 6)
    parts = [rng.choice(_LEADS), before, listing(names), after, middle, listing(subjects), last]
    text = " ".join(part for part in parts if part).replace(" ,", ",").replace(" .", ".")
    return f"{text} {rng.choice(('to', 'to', 'for'))}"


def _noise(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(_NOISE) for _ in range(rng.randint(low, high)))


KINDS: Mapping[str, Callable[[random.Random], str]] = {
    kind.__name__: kind
    for kind in (
        ioi2,
        noisy_ioi2,
        three_any,
        noisy_three_any,
        one_actor,
        list2,
        list3,
        repeat,
        copy2,
        copy3,
        swap,
    )
}


def rows(rng: random.Random, weights: Mapping[str, float], count: int) -> list[str]:
    """Draw rows of text; ``weights`` are relative frequencies of the kinds."""
    kinds = rng.choices(list(weights), list(weights.values()), k=count)
    return [KINDS[kind](rng) for kind in kinds]

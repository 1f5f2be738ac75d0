"""Which name pairs and templates belong to which split.

Names are held out as unordered pairs, not one by one: a model must have met every name, but must
not have met a test prompt's names together. A prompt of three names holds three pairs. What has no
names is held out by a hash of what matters in it (a year, a pair of tokens).

============================  ==========================================  =====================
split                         name pairs in a prompt                      templates
============================  ==========================================  =====================
``train``                     train pairs only                            train
``validation``                a validation pair, no test pair             train
``test``                      a test pair                                 train
``validation_templates``      a validation pair, no test pair             its own, both halves
``test_templates``            a test pair                                 its own, both halves
============================  ==========================================  =====================
"""

import hashlib
import random
from collections.abc import Sequence
from itertools import combinations

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.words import NAMES

SPLITS: tuple[str, ...] = (
    "train",
    "validation",
    "test",
    "validation_templates",
    "test_templates",
)

# Shares of the unordered pairs held out; the rest is for training.
_VALIDATION, _TEST = 0.10, 0.15
# Of 30 names every fourth draw fits or so; far fewer names may hold no fitting pair at all.
_TRIES = 10_000


def _assign() -> dict[frozenset[str], str]:
    pairs = list(combinations(NAMES, 2))
    random.Random("circuitlapse name pairs").shuffle(pairs)
    n_test, n_validation = round(_TEST * len(pairs)), round(_VALIDATION * len(pairs))
    labels = ["test"] * n_test + ["validation"] * n_validation
    labels += ["train"] * (len(pairs) - len(labels))
    return {frozenset(pair): label for pair, label in zip(pairs, labels, strict=True)}


#: Split of every unordered pair of names: "train", "validation" or "test".
PAIR_SPLIT: dict[frozenset[str], str] = _assign()


def check_split(split: str) -> None:
    """Refuse a split that does not exist."""
    if split not in SPLITS:
        raise CircuitlapseError(
            "there is no such split", got=split, fix=f"Use one of {', '.join(SPLITS)}"
        )


def names_split(names: Sequence[str]) -> str:
    """Return which split's names these are: "train", "validation" or "test"."""
    found = {PAIR_SPLIT[frozenset(pair)] for pair in combinations(names, 2)}
    return next(split for split in ("test", "validation", "train") if split in found)


def hash_split(text: str) -> str:
    """Return the split of anything, by its hash: "train", "validation" or "test"."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    if place < _TEST:
        return "test"
    return "validation" if place < _TEST + _VALIDATION else "train"


def held_out(split: str) -> tuple[str, str]:
    """Return which names and which templates a split has, each as a split."""
    own = split.endswith("_templates")
    return split.removesuffix("_templates"), split if own else "train"


def draw_names(
    rng: random.Random,
    count: int,
    split: str,
    unlike: Sequence[str] = (),
    among: Sequence[str] = NAMES,
) -> tuple[str, ...]:
    """Draw ``count`` (at least two) different names whose pairs belong to a split.

    Names come from ``among``, without those in ``unlike``.

    Raises:
        CircuitlapseError: If no such names are found.
    """
    wanted, _ = held_out(split)
    pool = [name for name in among if name not in unlike]
    for _ in range(_TRIES if len(pool) >= count else 0):
        names = tuple(rng.sample(pool, count))
        if names_split(names) == wanted:
            return names
    raise CircuitlapseError(
        f"there are too few names for the split {split!r}",
        got=f"{len(pool)} to draw {count} from: {', '.join(pool) or 'none'}",
        fix="A model with more names as single tokens is needed",
    )

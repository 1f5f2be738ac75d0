"""Which name pairs and templates belong to which split.

Names are held out as unordered pairs: a model must know every name, but training must not show a
test prompt's names together. A prompt of three names has three pairs. Prompts without names are
held out by a hash of what matters in them (a year, a pair of tokens).

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

SPLITS = ("train", "validation", "test", "validation_templates", "test_templates")

_VALIDATION, _TEST = 0.10, 0.15  # shares of the unordered pairs; the rest is for training
_TRIES = 10_000  # of 30 names about every fourth draw fits; few names may have no fitting pair


def _assign() -> dict[frozenset[str], str]:
    pairs = list(combinations(NAMES, 2))
    random.Random("circuitlapse name pairs").shuffle(pairs)
    n_test, n_validation = round(_TEST * len(pairs)), round(_VALIDATION * len(pairs))
    labels = ["test"] * n_test + ["validation"] * n_validation + ["train"] * len(pairs)
    return {frozenset(pair): label for pair, label in zip(pairs, labels, strict=False)}


#: "train", "validation" or "test" for every unordered pair of names.
PAIR_SPLIT: dict[frozenset[str], str] = _assign()


def check_split(split: str) -> None:
    """Raise an error if a split does not exist."""
    if split not in SPLITS:
        raise CircuitlapseError(
            "there is no such split", got=split, fix=f"Use one of {', '.join(SPLITS)}"
        )


def names_split(names: Sequence[str]) -> str:
    """Return "train", "validation" or "test" for the names of a prompt."""
    found = {PAIR_SPLIT[frozenset(pair)] for pair in combinations(names, 2)}
    return next(split for split in ("test", "validation", "train") if split in found)


def hash_split(text: str) -> str:
    """Return "train", "validation" or "test" for any text, by its hash."""
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    if share < _TEST:
        return "test"
    return "validation" if share < _TEST + _VALIDATION else "train"


def held_out(split: str) -> tuple[str, str]:
    """Return the split of a split's names, and that of its templates."""
    return split.removesuffix("_templates"), split if split.endswith("_templates") else "train"


def draw_names(
    rng: random.Random,
    count: int,
    split: str,
    unlike: Sequence[str] = (),
    among: Sequence[str] = NAMES,
) -> tuple[str, ...]:
    """Draw ``count`` (at least two) names from ``among``, not ``unlike``, with pairs of a split.

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
        fix="Use a model with more names as single tokens",
    )

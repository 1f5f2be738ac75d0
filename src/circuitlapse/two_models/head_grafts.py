"""Grafts of heads, and of their QK and OV, compared with size-matched random groups.

*Add-one-in* is the effect of a group's tuned weights in the base, *leave-one-out* the loss of the
tuned model without them. Within a group, ``qk`` is its query and key weights with their biases
(where its heads attend) and ``ov`` its value and output weights (what they move); the two are
grafted separately in the same way. Keys and values that several heads share are grafted with a
group that contains all of these heads, and otherwise not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.weights import Piece, component_pieces
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.random_baseline import (
    RANDOM_GROUPS,
    RandomBaseline,
    compare_to_random,
    head_mask,
    matched_heads,
)
from circuitlapse.stats.ratios import divide, logit_rounding
from circuitlapse.two_models.grafts import Grafts

Part = Literal["whole", "qk", "ov"]
Quantity = Literal["add_one_in", "leave_one_out"]
Key = tuple[tuple[str, ...], str]  # the heads that they belong to, and their slot
_SLOTS: dict[Part, str] = {"whole": "qkvo", "qk": "qk", "ov": "vo"}


@dataclass(frozen=True)
class HeadGraft:
    """Effect of the weights of one group of heads.

    Attributes:
        group: Its name.
        part: All its weights, or those of its heads' QK or OV circuits only.
        quantity: ``add_one_in`` or ``leave_one_out``.
        improvement: In logits, with its interval over prompts.
        share: The same over G; None where G's interval is not above zero.
        random: The same part and quantity of size-matched random groups; None where there are none.
    """

    group: str
    part: Part
    quantity: Quantity
    improvement: Estimate
    share: Estimate | None
    random: RandomBaseline | None


def head_grafts(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    groups: Mapping[str, Collection[str]],
    *,
    seed: int,
    parts: Collection[Part] = ("whole",),
    n_random: int = RANDOM_GROUPS,
    repeats: int = 1000,
    advance: Callable[[int, int], None] | None = None,
) -> list[HeadGraft]:
    """Measure every group add-one-in and leave-one-out, compared with random groups.

    Args:
        base: M0.
        tuned: M1.
        pairs: The new task's test prompts; groups must have been chosen on others.
        groups: Heads by name of their group.
        seed: Fixes random groups and bootstrap.
        parts: Which of the heads' weights.
        n_random: Random groups for each.
        repeats: Bootstrap resamples of the prompts.
        advance: Called with (groups and parts done, all of them).

    Raises:
        CircuitlapseError: If the models' parameters differ, or they have no such head.
    """
    grafted = GraftedHeads(base, tuned, pairs)
    names: list[tuple[str, Part, Quantity]] = []
    columns, random = [], []
    for name, heads in groups.items():
        head_mask(base.graph, heads)
        drawn = matched_heads(base.graph, heads, n_random, seed)
        for part in parts:
            for quantity in get_args(Quantity):
                improvements = grafted.improvements((heads, *drawn), part, quantity)
                names.append((name, part, quantity))
                columns.append(improvements[0])
                random.append(
                    compare_to_random(
                        float(improvements[0].mean()), improvements[1:].mean(axis=1).tolist()
                    )
                )
            if advance is not None:
                advance(len(names) // 2, len(groups) * len(parts))
    divided = divide(
        np.stack(columns, axis=1),
        grafted.after - grafted.before,
        seed=seed,
        repeats=repeats,
        rounding=logit_rounding(np.stack([grafted.before, grafted.after])),
    )
    return [
        HeadGraft(*key, divided.parts[i], divided.share(i), random[i])
        for i, key in enumerate(names)
    ]


def random_grafts(
    start: Model,
    tuned: Model,
    pairs: PromptPairs,
    groups: Mapping[Quantity, Mapping[str, Collection[str]]],
    *,
    seed: int,
    n_random: int = RANDOM_GROUPS,
    advance: Callable[[int, int], None] | None = None,
) -> dict[tuple[Quantity, str], list[float]]:
    """Graft size-matched random groups in place of given groups.

    Args:
        start: M0, or rescaled M0.
        tuned: M1.
        pairs: The new task's test prompts.
        groups: For ``add_one_in`` and ``leave_one_out``, heads by group name.
        seed: Draws the random groups.
        n_random: How many for each.
        advance: Called with (grafts done, all grafts).

    Returns:
        The mean improvement of each random group in logits; none for a group of all heads.

    Raises:
        CircuitlapseError: If the models' parameters differ, or they have no such head.
    """
    drawn: dict[tuple[Quantity, str], list[tuple[str, ...]]] = {
        (quantity, name): matched_heads(start.graph, heads, n_random, seed)
        for quantity, named in groups.items()
        for name, heads in named.items()
    }
    found: dict[tuple[Quantity, str], list[float]] = {key: [] for key in drawn}
    todo = [(key, heads) for key, sets in drawn.items() for heads in sets]
    if not todo:
        return found
    grafted = GraftedHeads(start, tuned, pairs)
    for done, (key, heads) in enumerate(todo, start=1):
        found[key].append(float(grafted.improvements([heads], "whole", key[0]).mean()))
        if advance is not None:
            advance(done, len(todo))
    return found


class GraftedHeads:
    """Grafted models by their heads, on the same prompts."""

    def __init__(self, start: Model, tuned: Model, pairs: PromptPairs) -> None:
        """Copy M0, or rescaled M0, as the scratch model for M1's weights."""
        self._pieces, self._pairs = pieces_by_key(start.hf), pairs
        self._grafts = Grafts(start, tuned, self._pieces)

    @cached_property
    def before(self) -> Float[np.ndarray, " prompts"]:
        """Logit difference per prompt with no tuned weights."""
        return self._values(())

    @cached_property
    def after(self) -> Float[np.ndarray, " prompts"]:
        """Logit difference per prompt with all of them."""
        return self._values(self._pieces)

    def improvements(
        self, sets: Sequence[Collection[str]], part: Part, quantity: Quantity
    ) -> Float[np.ndarray, "sets prompts"]:
        """Effect of each set of heads added to the start, or lost without it."""
        written = [keys_of(self._pieces, heads, part) for heads in sets]
        if quantity == "add_one_in":
            return np.stack([self._values(own) - self.before for own in written])
        return np.stack([self.after - self._values(self._pieces.keys() - own) for own in written])

    def _values(self, written: Collection[Key]) -> Float[np.ndarray, " prompts"]:
        answers = behaviour(self._grafts.write(written), self._pairs)
        return answers.logit_diff.astype(np.float64)


def pieces_by_key(hf: Any) -> dict[Key, list[Piece]]:
    """All parameters of a ``transformers`` model, by the heads they belong to and their slot."""
    pieces: dict[Key, list[Piece]] = {}
    for piece in component_pieces(hf):
        pieces.setdefault((piece.sharers or (piece.component,), piece.slot), []).append(piece)
    return pieces


def keys_of(pieces: Collection[Key], heads: Collection[str], part: Part = "whole") -> set[Key]:
    """Parameters that belong to these heads, and to no other head."""
    return {key for key in pieces if set(key[0]) <= set(heads) and key[1] in _SLOTS[part]}

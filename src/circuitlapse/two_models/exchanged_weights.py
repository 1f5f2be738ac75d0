"""What the weights of a part of the model bring: put back in M1, and grafted into M0.

Parts are groups (old-task heads, new heads, other heads, MLPs, and what belongs to no component)
and layers. *Grafted*: M0 with the tuned weights of the part, compared with M0 (Panigrahi et al.
2023). *Put back*: M1 compared with M1 with the base's weights of the part. Both say where weights
changed. Neither is a share of a cause: they overlap, and they need not sum to G.

A head has its query, key and value weights with their biases and its rows of the output matrix.
Keys and values that several heads share belong to the group of these heads, or to ``shared`` if the
heads are in different groups.
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from circuitlapse.graph import head_of, place_of
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.weights import SHARED, Piece, component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.stats.apart_groups import head_mask
from circuitlapse.stats.intervals import Estimate, mean_interval
from circuitlapse.two_models.hooked_forward import check_same_architecture

_GROUPS = ("old_heads", "new_heads", "other_heads", "mlps", "shared")


@dataclass(frozen=True)
class WeightEffect:
    """What the weights of one part bring, in logits of the new task's logit difference.

    Attributes:
        part: A group of components, or a layer.
        n_parameters: How many parameters the part has; tied ones count once.
        put_back: What M1 loses with the base's weights of the part.
        grafted: How much M0 improves with the tuned weights of the part.
    """

    part: str
    n_parameters: int
    put_back: Estimate
    grafted: Estimate


def weight_effects(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    *,
    old_heads: Collection[str],
    new_heads: Collection[str],
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> list[WeightEffect]:
    """Measure each group and then each layer, on clean prompts of the new task.

    ``base`` and ``tuned`` are M0 and M1, of one architecture. ``old_heads`` and ``new_heads`` were
    chosen on other prompts than these; a head in both is an old one.

    Raises:
        CircuitlapseError: If a head does not exist, or the models differ in architecture.
    """
    check_same_architecture(base, tuned)
    head_mask(base.graph, (*old_heads, *new_heads))  # refuses a head that does not exist

    def group_of(component: str) -> str:
        if component == SHARED:
            return "shared"
        if head_of(component) is None:
            return "mlps"
        if component in old_heads:
            return "old_heads"
        return "new_heads" if component in new_heads else "other_heads"

    def layer_of(component: str) -> str:
        place = place_of(component)
        return "shared" if place is None else f"layer {place.layer}"

    layers = [f"layer {layer}" for layer in range(base.graph.n_layers)]
    parts: dict[str, list[Piece]] = {part: [] for part in (*_GROUPS, *layers)}
    for piece in component_pieces(base.hf):
        owners = piece.sharers or (piece.component,)
        parts[_common({group_of(owner) for owner in owners})].append(piece)
        if (layer := _common({layer_of(owner) for owner in owners})) != "shared":
            parts[layer].append(piece)
    parts = {part: own for part, own in parts.items() if own}
    first, last = (_value(model, pairs) for model in (base, tuned))
    into_base, into_tuned = _Exchanged(base, tuned), _Exchanged(tuned, base)
    found = []
    for done, (part, own) in enumerate(parts.items(), 1):
        risen = into_base.value(own, pairs) - first
        lost = last - into_tuned.value(own, pairs)
        size = sum(map(_size, own))
        found.append(WeightEffect(part, size, mean_interval(lost), mean_interval(risen)))
        advance(done, len(parts))
    return found


def _common(parts: Collection[str]) -> str:
    """The part of all owners of a piece; ``shared`` if they are in different ones."""
    return next(iter(parts)) if len(parts) == 1 else "shared"


def _size(piece: Piece) -> int:
    return prod(part.stop - part.start for part in piece.index)


def _value(model: Model, pairs: PromptPairs) -> np.ndarray:
    return behaviour(model, pairs).logit_diff.astype(np.float64)


class _Exchanged:
    """A scratch copy of one model that gets some weights of another."""

    def __init__(self, into: Model, source: Model) -> None:
        self._into, self._source = _parameters(into), _parameters(source)
        hf: Any = copy.deepcopy(into.hf)
        self._model = load_model(hf, dtype=into.decoder.W_E.dtype)
        self._scratch = _parameters(self._model)

    def value(self, pieces: Sequence[Piece], pairs: PromptPairs) -> np.ndarray:
        """Logit differences with these weights of the other model."""
        self._write(self._source, pieces)
        found = _value(self._model, pairs)
        self._write(self._into, pieces)
        return found

    @torch.no_grad()
    def _write(self, source: Mapping[str, Any], pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._scratch[piece.parameter][piece.index].copy_(source[piece.parameter][piece.index])


def _parameters(model: Model) -> dict[str, Any]:
    return dict(model.hf.named_parameters())

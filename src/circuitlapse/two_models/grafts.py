"""Grafts: tuned weights of some parameter groups in the base, for all sets of five groups.

``old_heads``: the heads that the base uses on the old task. ``recruited_heads``: heads that it used
on neither task and the tuned model uses. ``other_heads``: the remaining ones. ``mlps``: all MLPs.
``shared``: embeddings, normalisations and the attention's output biases. A head's group contains
its query, key and value weights with their biases and its rows of the output matrix. Keys and
values that several heads share belong to the group of these heads, or to ``shared`` if the heads
are in different groups.

A group's tuned weights in the base, and its base weights in the tuned model, are grafts of a set
and of its complement, so the 32 sets of five groups answer both questions. All are written in place
into one scratch copy; neither model is changed.
"""

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.weights import SHARED, Piece, component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.documents import GROUPS, Group
from circuitlapse.shapes import Float
from circuitlapse.two_models.hooked_forward import check_same_architecture
from circuitlapse.verdict.causes import SUBSETS


@dataclass(frozen=True)
class ParameterGroups:
    """A partition of a model's parameters.

    Attributes:
        pieces: The parts of parameters that belong to each group.
        n_parameters: Number of parameters of each group; tied ones count once.
    """

    pieces: dict[Group, tuple[Piece, ...]]
    n_parameters: dict[Group, int]


def parameter_groups(
    hf: Any, old_heads: Collection[str], recruited_heads: Collection[str]
) -> ParameterGroups:
    """Put every parameter of a ``transformers`` model into exactly one group.

    Args:
        hf: The model; only names and shapes of its parameters are read.
        old_heads: Names such as ``a0.h3``.
        recruited_heads: Likewise; none of them in ``old_heads``.

    Raises:
        CircuitlapseError: If a head does not exist or is in both groups, or the model's family is
            not supported.
    """
    pieces = component_pieces(hf)
    heads = {piece.component for piece in pieces if head_of(piece.component)}
    unknown = sorted({*old_heads, *recruited_heads} - heads)
    if unknown:
        raise CircuitlapseError(
            "the model has no such head",
            got=unknown[0],
            fix="Name heads like a0.h3: layer and head count from 0",
        )
    both = sorted(set(old_heads) & set(recruited_heads))
    if both:
        raise CircuitlapseError(
            "a head cannot be both an old and a recruited one",
            got=both[0],
            fix="Put each head into one group",
        )

    def of_component(component: str) -> Group:
        if component == SHARED:
            return "shared"
        if component not in heads:
            return "mlps"
        if component in old_heads:
            return "old_heads"
        return "recruited_heads" if component in recruited_heads else "other_heads"

    def of_piece(piece: Piece) -> Group:
        owners = piece.sharers or (piece.component,)
        found: set[Group] = {of_component(owner) for owner in owners}
        return found.pop() if len(found) == 1 else "shared"

    grouped: dict[Group, list[Piece]] = {group: [] for group in GROUPS}
    for piece in pieces:
        grouped[of_piece(piece)].append(piece)
    return ParameterGroups(
        {group: tuple(members) for group, members in grouped.items()},
        {group: sum(map(_size, members)) for group, members in grouped.items()},
    )


def _size(piece: Piece) -> int:
    return prod(part.stop - part.start for part in piece.index)


class Grafts:
    """A scratch copy of the base into which parts of the tuned weights are written.

    Attributes:
        model: The scratch model; :meth:`write` changes it in place.
    """

    def __init__(self, base: Model, tuned: Model, parts: Mapping[Any, Sequence[Piece]]) -> None:
        """Copy the base.

        Args:
            base: M0.
            tuned: M1, of the same architecture and vocabulary.
            parts: A partition of the parameters, by name of each part.

        Raises:
            CircuitlapseError: If the models' parameters differ in name or shape.
        """
        check_same_architecture(base, tuned)
        self._base, self._tuned = _parameters(base), _parameters(tuned)
        self._parts = parts
        hf: Any = copy.deepcopy(base.hf)
        self.model = load_model(hf, dtype=base.decoder.W_E.dtype)
        self._scratch = _parameters(self.model)
        self._written: frozenset[Hashable] = frozenset()

    @torch.no_grad()
    def write(self, tuned: Collection[Hashable]) -> Model:
        """Give the scratch model the tuned weights of these parts and the base's elsewhere."""
        wanted = frozenset(tuned)
        for part in wanted ^ self._written:
            source = self._tuned if part in wanted else self._base
            for piece in self._parts[part]:
                target = self._scratch[piece.parameter]
                target[piece.index].copy_(source[piece.parameter][piece.index])
        self._written = wanted
        return self.model


def graft_values(
    base: Model, tuned: Model, groups: ParameterGroups, pairs: PromptPairs
) -> Float[np.ndarray, "subsets prompts"]:
    """Logit difference of every grafted model on every clean prompt, ``[subsets, prompts]``.

    Args:
        base: M0.
        tuned: M1.
        groups: The partition, chosen on other prompts than these.
        pairs: The new task's prompts.

    Returns:
        Rows in the order of :data:`circuitlapse.verdict.causes.SUBSETS`, in logits.

    Raises:
        CircuitlapseError: If the models' parameters differ in name or shape.
    """
    grafts = Grafts(base, tuned, groups.pieces)
    # A group without parameters needs no graft.
    filled = {group for group in GROUPS if groups.n_parameters[group]}
    distinct = dict.fromkeys(subset & filled for subset in SUBSETS)
    values = {
        subset: behaviour(grafts.write(subset), pairs).logit_diff.astype(np.float64)
        for subset in distinct
    }
    return np.stack([values[subset & filled] for subset in SUBSETS])


def _parameters(model: Model) -> dict[str, Any]:
    return dict(model.hf.named_parameters())

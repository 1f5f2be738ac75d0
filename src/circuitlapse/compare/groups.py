"""The five groups that every parameter of a model is divided into, each in exactly one.

``old_heads``: the heads that the base uses on the old task. ``recruited_heads``: heads that it used
on neither task and the tuned model uses. ``other_heads``: the remaining ones. ``mlps``: all MLPs.
``shared``: embeddings, normalisations and the attention's output biases. A head's group holds its
query, key and value weights with their biases and its rows of the output matrix. Keys and values
that several heads share go with the group that holds all of these heads; where the heads are in
different groups, they are ``shared``.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Any, get_args

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.components import SHARED, Piece, component_pieces
from circuitlapse.records.documents import Group
from circuitlapse.records.nodes import head_of

GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True)
class ParameterGroups:
    """A partition of a model's parameters.

    Attributes:
        pieces: The parts of parameters that belong to each group.
        n_parameters: How many numbers each group holds; tied parameters count once.
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

"""Hybrids of two models: the tuned weights of some parameter groups in the base.

Putting a group's tuned weights into the base, and putting them back in the tuned model, are grafts
of a set and of its complement, so that the 32 sets of five groups serve every question. All are
written in place into one scratch copy; neither model is touched.
"""

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from circuitlapse.compare.groups import GROUPS, ParameterGroups
from circuitlapse.compare.replaced import check_alike
from circuitlapse.compare.shares import SUBSETS
from circuitlapse.models import Model, behaviour, load_model
from circuitlapse.models.components import Piece
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs


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
            parts: A partition of the parameters of either, by what its parts are called.

        Raises:
            CircuitlapseError: If the models' parameters differ in name or shape.
        """
        check_alike(base, tuned)
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
    """Logit difference of every hybrid on every clean prompt, ``[subsets, prompts]``.

    Args:
        base: M0.
        tuned: M1.
        groups: The partition, chosen on other prompts than these.
        pairs: The new task's prompts.

    Returns:
        Rows in the order of :data:`circuitlapse.compare.shares.SUBSETS`, in logits.

    Raises:
        CircuitlapseError: If the models' parameters differ in name or shape.
    """
    grafts = Grafts(base, tuned, groups.pieces)
    # A group without parameters makes no hybrid of its own.
    filled = {group for group in GROUPS if groups.n_parameters[group]}
    distinct = dict.fromkeys(subset & filled for subset in SUBSETS)
    values = {
        subset: behaviour(grafts.write(subset), pairs).logit_diff.double().numpy()
        for subset in distinct
    }
    return np.stack([values[subset & filled] for subset in SUBSETS])


def _parameters(model: Model) -> dict[str, Any]:
    return dict(model.hf.named_parameters())

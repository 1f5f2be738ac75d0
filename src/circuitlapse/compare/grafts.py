"""Hybrids of two models: the tuned weights of some parameter groups in the base.

Putting a group's tuned weights into the base, and putting them back in the tuned model, are grafts
of a set and of its complement, so that the 32 sets of five groups serve every question. All are
written in place into one scratch copy; neither model is touched.
"""

import copy
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch

from circuitlapse.compare.groups import GROUPS, ParameterGroups
from circuitlapse.compare.shares import SUBSETS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model, behaviour, load_model
from circuitlapse.records.documents import Group
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs


class Grafts:
    """A scratch copy of the base into which groups of tuned weights are written.

    Attributes:
        model: The scratch model; :meth:`write` changes it in place.
    """

    def __init__(self, base: Model, tuned: Model, groups: ParameterGroups) -> None:
        """Copy the base.

        Args:
            base: M0.
            tuned: M1, of the same architecture and vocabulary.
            groups: A partition of the parameters of either.

        Raises:
            CircuitlapseError: If the models' parameters differ in name or shape.
        """
        self._base, self._tuned = _parameters(base), _parameters(tuned)
        for name in sorted(self._base.keys() | self._tuned.keys()):
            shapes = [
                tuple(side[name].shape) if name in side else "nothing"
                for side in (self._base, self._tuned)
            ]
            if shapes[0] != shapes[1]:
                raise CircuitlapseError(
                    f"base and tuned model differ in the shape of {name}",
                    got=f"{shapes[0]} and {shapes[1]}",
                    fix="Fine-tune without changing the architecture or adding tokens",
                )
        self._groups = groups
        hf: Any = copy.deepcopy(base.hf)
        self.model = load_model(hf, dtype=base.decoder.W_E.dtype)
        self._scratch = _parameters(self.model)
        self._written: frozenset[Group] = frozenset()

    @torch.no_grad()
    def write(self, tuned: Collection[Group]) -> Model:
        """Give the scratch model the tuned weights of these groups and the base's elsewhere."""
        wanted = frozenset(tuned)
        for group in wanted ^ self._written:
            source = self._tuned if group in wanted else self._base
            for piece in self._groups.pieces[group]:
                target = self._scratch[piece.parameter]
                target[piece.index].copy_(source[piece.parameter][piece.index])
        self._written = wanted
        return self.model


def graft_values(
    base: Model,
    tuned: Model,
    groups: ParameterGroups,
    pairs: PromptPairs,
    advance: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "subsets prompts"]:
    """Logit difference of every hybrid on every clean prompt, ``[subsets, prompts]``.

    Args:
        base: M0.
        tuned: M1.
        groups: The partition, chosen on other prompts than these.
        pairs: The new task's prompts.
        advance: Called with (hybrids done, hybrids in all).

    Returns:
        Rows in the order of :data:`circuitlapse.compare.shares.SUBSETS`, in logits.

    Raises:
        CircuitlapseError: If the models' parameters differ in name or shape.
    """
    grafts = Grafts(base, tuned, groups)
    # A group without parameters makes no hybrid of its own.
    filled = {group for group in GROUPS if groups.n_parameters[group]}
    distinct = list(dict.fromkeys(subset & filled for subset in SUBSETS))
    values = {}
    for done, subset in enumerate(distinct):
        answers = behaviour(grafts.write(subset), pairs)
        values[subset] = answers.logit_diff.double().numpy()
        if advance is not None:
            advance(done + 1, len(distinct))
    return np.stack([values[subset & filled] for subset in SUBSETS])


def _parameters(model: Model) -> dict[str, Any]:
    return dict(model.hf.named_parameters())

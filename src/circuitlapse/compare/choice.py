"""Which heads make up the old circuit, and which were recruited: chosen on validation prompts.

Both follow from the heads' fates (:mod:`circuitlapse.compare.fates`) under one corruption family,
its variants averaged. What is then measured of the groups is measured on other prompts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from circuitlapse.attribution import node_effects
from circuitlapse.compare.fates import (
    HeadEffects,
    corrected_confidence,
    head_fates,
    used,
    used_threshold,
)
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model, logit_differences
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs

Variants = Mapping[str, PromptPairs]
"""The same clean prompts under each corruption of one family, by its name."""


@dataclass(frozen=True)
class Choice:
    """The two groups of heads that the verdict is about.

    Attributes:
        old_heads: Heads that the base uses on the old task.
        recruited_heads: Heads that the base uses on neither task and the tuned model uses.
        refused: Why heads could not be told apart; empty where they could.
    """

    old_heads: tuple[str, ...]
    recruited_heads: tuple[str, ...]
    refused: str = ""


def choose_heads(
    base: Model, tuned: Model, old: Variants, new: Variants, placebo: Model | None = None
) -> Choice:
    """Choose the old circuit's heads and the recruited ones.

    Args:
        base: M0.
        tuned: M1, of the same architecture.
        old: Validation prompts of the old task.
        new: Validation prompts of the new task.
        placebo: A fine-tune that must not teach the new task: a change must be beyond what it moves
            a head. Without one, a change is held against zero only.

    Returns:
        Both groups; none of either, and why, where the base does not do the old task: no effect is
        then large or small.
    """
    base, tuned = base.remembering(), tuned.remembering()
    placebo = placebo and placebo.remembering()
    nodes = base.graph.nodes
    columns = [index for index, node in enumerate(nodes) if not node.startswith("m")]
    both = [logit_differences(base, pairs) for pairs in old.values()]
    difference = np.mean([(clean - corrupt).double().numpy() for clean, corrupt in both], axis=0)
    try:
        threshold = used_threshold(difference)
    except CircuitlapseError as error:
        return Choice((), (), str(error))

    def effects(model: Model, task: Variants) -> Float[np.ndarray, "prompts heads"]:
        return np.mean([node_effects(model, pairs) for pairs in task.values()], axis=0)[:, columns]

    fates = head_fates(
        HeadEffects(
            heads=[nodes[index] for index in columns],
            base_old=effects(base, old),
            base_new=effects(base, new),
            tuned_old=effects(tuned, old),
            tuned_new=effects(tuned, new),
            placebo_old=None if placebo is None else effects(placebo, old),
            placebo_new=None if placebo is None else effects(placebo, new),
        ),
        threshold,
    )
    return Choice(fates.old_heads, fates.recruited_heads)


def old_circuit(base: Model, old: Variants) -> Choice:
    """Choose the old circuit's heads alone: those of :func:`choose_heads`, whatever was tuned."""
    base = base.remembering()
    nodes = base.graph.nodes
    columns = [index for index, node in enumerate(nodes) if not node.startswith("m")]
    both = [logit_differences(base, pairs) for pairs in old.values()]
    difference = np.mean([(clean - corrupt).double().numpy() for clean, corrupt in both], axis=0)
    try:
        threshold = used_threshold(difference)
    except CircuitlapseError as error:
        return Choice((), (), str(error))
    effects = np.mean([node_effects(base, pairs) for pairs in old.values()], axis=0)[:, columns]
    found = used(effects, threshold, corrected_confidence(len(columns)))
    heads = tuple(nodes[column] for column, is_used in zip(columns, found, strict=True) if is_used)
    return Choice(heads, ())

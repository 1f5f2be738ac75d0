"""Old-task heads and recruited heads, chosen on validation prompts.

Both follow from the heads' changes (:mod:`circuitlapse.heads.head_changes`) under one
counterfactual family, its variants averaged. The groups are then measured on other prompts.
"""

from collections.abc import Mapping

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_changes import HeadEffects, head_changes, used, used_threshold
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import corrected_confidence
from circuitlapse.verdict.evidence import Choice

Variants = Mapping[str, PromptPairs]
"""The same clean prompts under each counterfactual of one family, by its name."""


def choose_heads(base: Model, tuned: Model, old: Variants, new: Variants) -> Choice:
    """Choose the old-task heads and the recruited ones; a change is compared with zero only.

    Args:
        base: M0.
        tuned: M1, of the same architecture.
        old: Validation prompts of the old task.
        new: Validation prompts of the new task.

    Returns:
        Both groups. If the base fails on the old task, no effect is large or small: both groups are
        empty, with the reason.
    """
    base, tuned = base.with_prefix_cache(), tuned.with_prefix_cache()
    try:
        threshold = _threshold(base, old)
    except CircuitlapseError as error:
        return Choice((), (), str(error))

    changes = head_changes(
        HeadEffects(
            heads=base.graph.heads,
            base_old=_effects(base, old),
            base_new=_effects(base, new),
            tuned_old=_effects(tuned, old),
            tuned_new=_effects(tuned, new),
        ),
        threshold,
    )
    return Choice(changes.old_heads, changes.recruited_heads)


def old_task_heads(base: Model, old: Variants) -> Choice:
    """Choose only the old-task heads of :func:`choose_heads`, which depend on the base alone."""
    try:
        return Choice(used_heads(base, old), ())
    except CircuitlapseError as error:
        return Choice((), (), str(error))


def used_heads(model: Model, task: Variants) -> tuple[str, ...]:
    """Name the heads that a model uses on a task.

    Raises:
        CircuitlapseError: If the model fails on the task.
    """
    model = model.with_prefix_cache()
    threshold, heads = _threshold(model, task), model.graph.heads
    found = used(_effects(model, task), threshold, corrected_confidence(len(heads)))
    return tuple(head for head, is_used in zip(heads, found, strict=True) if is_used)


def _threshold(base: Model, old: Variants) -> float:
    """The smallest effect on the old task that counts; an error if the base fails on it."""
    both = [logit_differences(base, pairs) for pairs in old.values()]
    return used_threshold(
        np.mean([(clean - corrupt).double().numpy() for clean, corrupt in both], axis=0)
    )


def _effects(model: Model, task: Variants) -> Float[np.ndarray, "prompts heads"]:
    """The heads' effects, averaged over a family's counterfactuals."""
    each = [node_effects(model, pairs) for pairs in task.values()]
    return np.mean(each, axis=0)[:, model.graph.head_nodes]

"""What is measured of an organism before it may be used: behaviour, the old heads."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from circuitlapse.attribution import node_effects
from circuitlapse.compare import used_threshold
from circuitlapse.compare.fates import corrected_confidence, used
from circuitlapse.models import Model, behaviour, logit_differences
from circuitlapse.records.nodes import head_of
from circuitlapse.tasks import PromptPairs, get_task, tokenize


@dataclass(frozen=True)
class Scores:
    """What a model reaches on prompts with held-out name pairs.

    Attributes:
        old: Accuracy on the old task, over the whole vocabulary.
        new: Accuracy on the new task, among the names.
        value: Mean logit difference on the new task, in logits.
    """

    old: float
    new: float
    value: float


def scores(model: Model, old: PromptPairs, new: PromptPairs) -> Scores:
    """Measure a model on prompts of both tasks."""
    on_old, on_new = behaviour(model, old), behaviour(model, new)
    return Scores(
        on_old.correct.double().mean().item(),
        on_new.correct_among.double().mean().item(),
        on_new.logit_diff.double().mean().item(),
    )


def old_heads(model: Model, task: str, n: int) -> tuple[str, ...]:
    """Name the heads that a model uses on a task, by the definition of the fates.

    Args:
        model: The base.
        task: What it does.
        n: Validation prompts to choose on, of the corruption family ``subject``.

    Raises:
        CircuitlapseError: If the model does not do the task.
    """
    nodes = model.graph.nodes
    columns = [i for i, node in enumerate(nodes) if not node.startswith("m")]
    effects, differences = [], []
    items = get_task(task).items("validation", n)
    for variant in get_task(task).families["subject"]:
        pairs = tokenize(items, model.tokenizer, variant)
        clean, corrupt = logit_differences(model, pairs)
        differences.append((clean - corrupt).double().numpy())
        effects.append(node_effects(model, pairs)[:, columns].double().numpy())
    threshold = used_threshold(np.mean(differences, axis=0))
    in_use = used(np.mean(effects, axis=0), threshold, corrected_confidence(len(columns)))
    return tuple(nodes[i] for i, is_used in zip(columns, in_use, strict=True) if is_used)


@torch.no_grad()
def silence(model: Model, heads: Collection[str]) -> None:
    """Set the output matrices of some heads to zero, in place."""
    for name in heads:
        if (place := head_of(name)) is not None:
            model.decoder.attention[place.layer].W_O[place.head] = 0.0

"""What is measured of an organism before it may be used: behaviour, the old heads."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from circuitlapse.compare.choice import used_heads
from circuitlapse.models import Model, behaviour
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
    items, families = get_task(task).items("validation", n), get_task(task).families
    return used_heads(
        model,
        {variant: tokenize(items, model.tokenizer, variant) for variant in families["subject"]},
    )


@torch.no_grad()
def silence(model: Model, heads: Collection[str]) -> None:
    """Set the output matrices of some heads to zero, in place."""
    for name in heads:
        if (place := head_of(name)) is not None:
            model.decoder.attention[place.layer].W_O[place.head] = 0.0

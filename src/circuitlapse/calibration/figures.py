"""What is measured of an organism before it may be used: behaviour, mediation, the old heads."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitlapse.attribution import node_effects
from circuitlapse.compare import used_threshold
from circuitlapse.compare.fates import used
from circuitlapse.models import Model, behaviour, logit_differences
from circuitlapse.models.context import Context
from circuitlapse.models.prefix import checked
from circuitlapse.records.nodes import head_of
from circuitlapse.shapes import Float
from circuitlapse.tasks import PromptPairs, get_task, tokenize

_PROMPTS = 128  # in a batch of held runs


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
    in_use = used(np.mean(effects, axis=0), threshold, 1 - 0.05 / len(columns))
    return tuple(nodes[i] for i, is_used in zip(columns, in_use, strict=True) if is_used)


@torch.no_grad()
def silence(model: Model, heads: Collection[str]) -> None:
    """Set the output matrices of some heads to zero, in place."""
    for name in heads:
        if (place := head_of(name)) is not None:
            model.decoder.attention[place.layer].W_O[place.head] = 0.0


@torch.no_grad()
def held_values(
    base: Model, tuned: Model, pairs: PromptPairs, free: Collection[str]
) -> Float[Tensor, " prompts"]:
    """Logit differences of the tuned model with all heads but some held at the base's activations.

    A held head adds to the stream, at every position, what it adds in the base on the same prompt.
    The free heads, MLPs, embeddings, normalisations and output biases are the tuned model's, and
    run on what they then get.

    Args:
        base: M0.
        tuned: M1, of the same architecture.
        pairs: Prompts, of which the clean ones are run.
        free: The heads that are not held.

    Returns:
        Answer logit minus the distractors' mean logit, in logits.
    """
    ours, theirs, graph = tuned.decoder, base.decoder, tuned.graph
    is_free = torch.zeros(graph.n_layers, graph.n_heads, 1, device=tuned.device)
    for name in free:
        if (place := head_of(name)) is not None:
            is_free[place.layer, place.head] = 1.0
    pairs = checked(ours, pairs)
    values = torch.empty(len(pairs))
    for rows in torch.arange(len(pairs), device=tuned.device).split(_PROMPTS):
        batch = pairs[rows].trimmed()
        context = Context(batch.lengths[:, None] - 1)
        x, steps = ours.embed(batch.clean), theirs.trace(theirs.embed(batch.clean), context)
        for layer, step in enumerate(steps):
            q, k, v = ours.attention[layer].project(x)
            q, stream = (ours.to_queries(layer, each, context) for each in (q, x))
            z = ours.attend(layer, q, k, v, context)
            held = (step.z * (1 - is_free[layer])).flatten(2)
            added = ours.attention_out(layer, z * is_free[layer])
            after = stream + added + held @ theirs.attention[layer].W_O.flatten(0, 1)
            x = after + ours.mlp[layer](stream if ours.parallel else after)
        logits = ours.logits(x)[:, 0].float()
        wrong = logits.gather(1, batch.distractors).mean(dim=1)
        values[rows.cpu()] = (logits.gather(1, batch.answers[:, None])[:, 0] - wrong).cpu()
    return values

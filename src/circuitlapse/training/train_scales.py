"""Training of one output scale per head and MLP, with all weights frozen.

No model family has scales as parameters, so they are trained on the engine's decoder.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.output_scales import rescaled_decoder
from circuitlapse.models.engine.shared_prefix import checked
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float

_LEARNING_RATE = 0.03


def train_scales(
    model: Model,
    pairs: PromptPairs,
    nodes: Collection[str] | None = None,
    *,
    steps: int = 200,
    batch_size: int = 32,
    seed: int = 0,
    report: Callable[[int, Float[Tensor, " nodes"]], None] = lambda step, scales: None,
) -> Float[Tensor, " nodes"]:
    """Fit scales to the answers of clean prompts, with Adam on the cross-entropy.

    The loss is that of fine-tuning on answers: over the whole vocabulary, at the answer's first
    token. Scales start at 1 and may become negative. Only ``nodes``, by default all, have one; the
    others keep 1. The model is not changed. ``report`` gets ``(step, scales)``, first of step 0.

    Raises:
        CircuitlapseError: If a node does not exist, or the model cannot run the prompts.
    """
    names = model.graph.nodes
    chosen = set(names if nodes is None else nodes)
    unknown = sorted(chosen - set(names))
    if unknown:
        raise CircuitlapseError(
            "the model has no such node",
            got=unknown[0],
            fix="Name heads like a0.h3 and MLPs like m0, as in graph.nodes",
        )
    decoder, pairs = model.decoder, checked(model.decoder, pairs)
    free = torch.tensor([name in chosen for name in names], device=model.device)
    weight = torch.ones(len(names), device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=_LEARNING_RATE)
    generator, order = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)

    def current() -> Float[Tensor, " nodes"]:
        return weight.where(free, torch.ones_like(weight))

    report(0, current().detach().cpu())
    for step in range(1, steps + 1):
        if len(order) < min(batch_size, len(pairs)):
            order = torch.randperm(len(pairs), generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        batch = pairs[rows.to(model.device)].trimmed()
        scaled = rescaled_decoder(decoder, current().to(decoder.W_E))
        context = Context(batch.lengths[:, None] - 1)
        logits = scaled.logits(scaled.run(scaled.embed(batch.clean), context))[:, 0]
        loss = cross_entropy(logits.float(), batch.answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step, current().detach().cpu())
    return current().detach().cpu()

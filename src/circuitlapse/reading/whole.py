"""Whole prompts, at all of whose positions something is read.

Their batches begin at the first token, and the last layer runs at every position too.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Decoder
from circuitlapse.models.prefix import Suffixes, checked, each_batch
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs

T = TypeVar("T")

Prompts = PromptPairs | Tensor
"""Pairs, of which the clean prompts are read, or token ids, ``[prompts, pos]``, without padding."""


def whole(decoder: Decoder, prompts: Prompts) -> PromptPairs:
    """Return prompts as pairs on the model's device, without columns that are only padding.

    Raises:
        CircuitlapseError: If they are no token ids of this model, or too long for it.
    """
    if not isinstance(prompts, PromptPairs):
        if prompts.ndim != 2 or prompts.is_floating_point():
            raise CircuitlapseError(
                "prompts must be PromptPairs or a tensor of token ids, [prompts, pos]",
                got=f"{prompts.dtype} of shape {tuple(prompts.shape)}",
            )
        # Nothing here looks at answers.
        prompts = PromptPairs.from_tensors(prompts, prompts, prompts[:, 0])
    return checked(decoder, prompts)


def each_whole_batch(
    decoder: Decoder,
    pairs: PromptPairs,
    work: Callable[[Suffixes], T],
    keep: Callable[[Int[Tensor, " batch"], T], None],
    batch_size: int | None = None,
    metric: Metric = "log_prob",
) -> None:
    """Work on the prompts in batches, as :func:`circuitlapse.models.prefix.each_batch` does.

    Where no metric is computed, the default asks nothing of the pairs, not even distractors.
    """
    floats_per_token = 16 * decoder.d_model + 2 * decoder.n_heads * pairs.clean.shape[1]
    each_batch(
        decoder, pairs, floats_per_token, work,
        keep=keep, metric=metric, batch_size=batch_size, whole=True,
    )  # fmt: skip


def patterns(
    decoder: Decoder, batch: Suffixes, n_layers: int
) -> Iterator[Float[Tensor, "batch heads query key"]]:
    """Run the first layers one by one and yield each one's attention weights."""
    context, x = batch.everywhere(), batch.clean
    for layer in range(n_layers):
        step = decoder.step(layer, x, context)
        yield decoder.pattern(layer, step.q, step.k, context)
        x = step.resid_post

"""Whole prompts, at all of whose positions something is read.

Unlike the batches of :mod:`circuitlapse.models.prefix`, these begin at the first token, and the
last layer runs at every position too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.context import Context
from circuitlapse.models.decoder import Decoder
from circuitlapse.models.prefix import BATCH_TOKENS, alike, checked
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.pairs import PromptPairs

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


def batches(
    pairs: PromptPairs, batch_size: int | None = None
) -> Iterator[tuple[Int[Tensor, " batch"], Int[Tensor, "batch pos"]]]:
    """Yield row numbers and the clean prompts' token ids, cut to the batch's longest prompt."""
    ends = pairs.reads().amax(dim=1) + 1
    for rows in alike(ends, torch.zeros_like(ends), BATCH_TOKENS, batch_size):
        yield rows, pairs.clean[rows, : int(ends[rows].max())]


def every_position(tokens: Int[Tensor, "batch pos"]) -> Context:
    """Describe whole prompts that are read at every position."""
    return Context(torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1))


def patterns(
    decoder: Decoder, tokens: Int[Tensor, "batch pos"], n_layers: int
) -> Iterator[Float[Tensor, "batch heads query key"]]:
    """Run the first layers one by one and yield each one's attention weights."""
    context, x = every_position(tokens), decoder.embed(tokens)
    for layer in range(n_layers):
        step = decoder.step(layer, x, context)
        yield decoder.pattern(layer, step.q, step.k, context)
        x = step.resid_post


def after_first_block(
    decoder: Decoder, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """Run the first block and return the residual stream behind it."""
    return decoder.step(0, decoder.embed(tokens), every_position(tokens)).resid_post

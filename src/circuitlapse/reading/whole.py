"""Clean runs over whole prompts, with activations at all positions or at the logit positions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context, at_reads
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.shared_prefix import Suffixes, checked, each_batch
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float, Int

T = TypeVar("T")

Prompts = PromptPairs | Tensor
"""Pairs, of which the clean prompts are used, or token ids, ``[prompts, pos]``, without padding."""


def whole(decoder: Decoder, prompts: Prompts) -> PromptPairs:
    """Return prompts as pairs on the model's device, trimmed to the longest prompt.

    Raises:
        CircuitlapseError: If they are no token ids of this model, or too long for it.
    """
    if not isinstance(prompts, PromptPairs):
        if prompts.ndim != 2 or prompts.is_floating_point():
            raise CircuitlapseError(
                "prompts must be PromptPairs or a tensor of token ids, [prompts, pos]",
                got=f"{prompts.dtype} of shape {tuple(prompts.shape)}",
                fix="Pass tokenizer(texts, return_tensors='pt').input_ids",
            )
        # Answers are not used.
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
    """Call ``each_batch`` on whole prompts; the default metric needs no distractors."""
    floats_per_token = 16 * decoder.d_model + 2 * decoder.n_heads * pairs.clean.shape[1]
    each_batch(
        decoder,
        pairs,
        floats_per_token,
        work,
        keep=keep,
        metric=metric,
        batch_size=batch_size,
        whole=True,
    )


def patterns(
    decoder: Decoder, batch: Suffixes, n_layers: int
) -> Iterator[Float[Tensor, "batch heads query key"]]:
    """Run the first layers one by one and yield each one's attention weights."""
    context, x = batch.everywhere(), batch.clean
    for layer in range(n_layers):
        step = decoder.step(layer, x, context)
        yield decoder.pattern(layer, step.q, step.k, context)
        x = step.resid_post


@dataclass(frozen=True)
class Layers:
    """Activations at the logit positions, each ``[batch, reads, …]``, per layer.

    Attributes:
        before: Residual stream before the layer.
        z: The heads' mixed values.
        added: Attention output.
        mlp_out: MLP output.
        final: Residual stream after the last layer.
    """

    before: list[Tensor]
    z: list[Tensor]
    added: list[Tensor]
    mlp_out: list[Tensor]
    final: Tensor


def run_layers(
    decoder: Decoder, batch: Suffixes, hook: Callable[[int, Step, Context], None] | None = None
) -> Layers:
    """Run the clean prompts of a batch; with a hook, the last layer runs at all positions, too."""
    x, reads, parts = batch.clean, batch.context, list[tuple[Tensor, ...]]()
    context = reads if hook is None else batch.everywhere()
    for layer in range(decoder.n_layers):
        step = decoder.step(layer, x, context)
        if hook is not None:
            hook(layer, step, context)
        kept = (step.z, step.attn_out, step.mlp_out)
        if hook is not None or not decoder.is_last(layer):
            kept = tuple(at_reads(each, reads) for each in kept)
        parts.append((at_reads(x, reads), *kept))
        x = step.resid_post
    final = x if hook is None else at_reads(x, reads)
    return Layers(*(list(each) for each in zip(*parts, strict=True)), final=final)

"""Batches of prompt pairs that begin at their first differing token.

Under a causal mask everything to the left of the first token that differs is the same in the clean
and the corrupt run. It is run once, for its keys and values; all further work, on however many
variants of the prompts, is on the columns from there on. Writers' differences to the left are zero,
so that nothing there can contribute to a score or an effect.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Context, Decoder
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.pairs import PromptPairs

MEMORY_BYTES = 256 * 2**20
"""What the activations of one batch may take, where no batch size is given."""


@dataclass(frozen=True)
class Suffixes:
    """One batch of pairs, from the first column on in which any of them differs.

    Attributes:
        rows: Which of the pairs these are; even numbers first, so that halves are slices.
        pairs: The whole prompts.
        clean: Embeddings of the clean prompts' columns.
        corrupt: Embeddings of the corrupt prompts' columns.
        context: The prefix that they share, and where each prompt ends.
        direction: Readout of the metric: the answer's row of the unembedding minus the
            distractors' mean row.
    """

    rows: Int[Tensor, " batch"]
    pairs: PromptPairs
    clean: Float[Tensor, "batch pos d_model"]
    corrupt: Float[Tensor, "batch pos d_model"]
    context: Context
    direction: Float[Tensor, "batch d_model"]

    def metric(
        self, decoder: Decoder, final: Float[Tensor, "variants_batch d_model"]
    ) -> Float[Tensor, " variants_batch"]:
        """Answer logit minus the distractors' mean logit, from the last residual stream.

        It needs no other logit, so the unembedding is not run. ``final`` may hold several variants
        of the batch, one after the other.
        """
        normed = decoder.norm(final).unflatten(0, (-1, len(self.direction)))
        return (normed * self.direction).sum(dim=-1).flatten()


def suffixes(
    decoder: Decoder,
    pairs: PromptPairs,
    floats_per_token: int,
    batch_size: int | None = None,
) -> Iterator[Suffixes]:
    """Check the pairs and yield them in batches that fit the memory budget.

    Args:
        decoder: The model.
        pairs: All pairs; they are moved to the model's device.
        floats_per_token: What the caller will keep per token of a batch, to choose its size.
        batch_size: Pairs per batch; by default as many as :data:`MEMORY_BYTES` allows.

    Raises:
        CircuitlapseError: If prompts are longer than the model's context, or token ids lie outside
            its vocabulary.
    """
    pairs = checked(decoder, pairs)
    if batch_size is None:
        bytes_per_pair = 4 * floats_per_token * pairs.clean.shape[1]
        batch_size = max(1, MEMORY_BYTES // bytes_per_pair)
    for rows, batch in pairs.batches(batch_size):
        order = (rows % 2).argsort(stable=True)
        rows, batch = rows[order], batch[order]
        end = batch.lengths - 1
        start = int(torch.minimum(batch.first_difference(), end).min())
        with torch.no_grad():
            context = Context(start, end - start, decoder.remember(batch.clean, start))
            wrong = decoder.W_U[batch.distractors].mean(dim=1)
            yield Suffixes(
                rows,
                batch,
                decoder.embed(batch.clean[:, start:], start),
                decoder.embed(batch.corrupt[:, start:], start),
                context,
                decoder.W_U[batch.answers] - wrong,
            )


def checked(decoder: Decoder, pairs: PromptPairs) -> PromptPairs:
    """Return the pairs on the model's device, or say why the model cannot run them."""
    pairs = pairs.trimmed().to(decoder.W_E.device)
    width, longest = pairs.clean.shape[1], len(decoder.W_pos)
    if width > longest:
        raise CircuitlapseError(
            f"prompts may have at most {longest} tokens in this model",
            got=width,
            fix="Use shorter prompts or a model with a longer context",
        )
    vocabulary = len(decoder.W_E)
    for name in ("clean", "corrupt", "answers", "distractors"):
        ids = getattr(pairs, name)
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            raise CircuitlapseError(
                f"token ids in {name} must lie between 0 and {vocabulary - 1}",
                got=f"{int(ids.min())} to {int(ids.max())}",
                fix="Use the tokenizer that belongs to this model",
            )
    return pairs

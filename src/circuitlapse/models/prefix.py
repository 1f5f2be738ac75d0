"""Batches of prompt pairs, each from its first differing token on.

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
from circuitlapse.models.context import Context
from circuitlapse.models.decoder import Decoder
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.pairs import PromptPairs

MEMORY_BYTES = 256 * 2**20
"""What the activations of one batch may take, where no batch size is given."""

BATCH_TOKENS = 1024
"""More tokens than this in a batch gain nothing, and small batches waste less on padding."""


@dataclass(frozen=True)
class Suffixes:
    """One batch of pairs; each prompt's columns begin at its own first differing token.

    Attributes:
        rows: Which of the pairs these are; even numbers first, so that halves are slices.
        clean: Embeddings of the clean prompts' columns.
        corrupt: Embeddings of the corrupt prompts' columns.
        context: The prefix that both share, and where each prompt begins and ends.
        direction: Readout of the metric: the answer's row of the unembedding minus the
            distractors' mean row.
    """

    rows: Int[Tensor, " batch"]
    clean: Float[Tensor, "batch pos d_model"]
    corrupt: Float[Tensor, "batch pos d_model"]
    context: Context
    direction: Float[Tensor, "batch d_model"]

    def positions(self, columns: Int[Tensor, "batch some"]) -> Int[Tensor, "batch some"]:
        """Positions in the whole prompts at which columns of the batch stand."""
        start = self.context.start
        return columns if start is None else columns + start[:, None]

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
    """Check the pairs and yield them in batches, each prompt from its first difference on.

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
    most_tokens = min(BATCH_TOKENS, MEMORY_BYTES // (4 * floats_per_token))
    starts = torch.minimum(pairs.first_difference(), pairs.lengths - 1)
    for rows in alike(pairs.lengths - starts, starts, most_tokens, batch_size):
        with torch.no_grad():
            yield _suffixes(decoder, rows, pairs[rows], starts[rows])


def alike(
    widths: Int[Tensor, " prompts"],
    starts: Int[Tensor, " prompts"],
    most_tokens: int,
    batch_size: int | None = None,
) -> Iterator[Int[Tensor, " batch"]]:
    """Group rows of like width and start, so that little of a batch is padding.

    A batch has at most ``most_tokens``, padding included, or else ``batch_size`` rows if that is
    given. Even rows come first in it.
    """
    wide, first = widths.tolist(), starts.tolist()
    order = sorted(range(len(wide)), key=lambda row: (wide[row], first[row]))
    while order:
        taken = 1
        while taken < len(order) and (
            taken < batch_size
            if batch_size is not None
            else (taken + 1) * wide[order[taken]] <= most_tokens
        ):
            taken += 1
        rows, order = sorted(order[:taken], key=lambda row: row % 2), order[taken:]
        yield torch.tensor(rows, device=starts.device)


def _suffixes(decoder: Decoder, rows: Tensor, pairs: PromptPairs, start: Tensor) -> Suffixes:
    longest = pairs.clean.shape[1]
    width = int((pairs.lengths - start).max())
    take = start[:, None] + torch.arange(width, device=start.device)
    take = take.clamp(max=longest - 1)
    past = decoder.remember(pairs.clean[:, : int(start.max())])
    wrong = decoder.W_U[pairs.distractors].mean(dim=1)
    return Suffixes(
        rows,
        decoder.embed(pairs.clean.gather(1, take), start),
        decoder.embed(pairs.corrupt.gather(1, take), start),
        Context(pairs.lengths - 1 - start, start, past),
        decoder.W_U[pairs.answers] - wrong,
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

"""Previous-token, duplicate-token and induction scores, on repeated random tokens.

Olsson et al. (2022), "In-context learning and induction heads"; Wang et al. (2022) name the heads
of their circuit by the same three offsets. In n random tokens repeated once, only the repetition
gives a reason to attend by content.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.reading.whole import each_whole_batch, patterns, whole
from circuitlapse.shapes import Float, Int

_USUAL = 50


@dataclass(frozen=True, eq=False)
class RepeatScores:
    """Mean attention weights on n repeated random tokens, between 0 and 1.

    Attributes:
        previous: From every token but the first to the one before it (offset −1).
        duplicate: From the second half's tokens to the same token in the first (offset −n).
        induction: From the second half's tokens to the one after that (offset −(n − 1)).
    """

    previous: Float[Tensor, "layers heads"]
    duplicate: Float[Tensor, "layers heads"]
    induction: Float[Tensor, "layers heads"]


@torch.no_grad()
def repeat_scores(
    model: Model, n_tokens: int | None = None, sequences: int = 8, seed: int = 0
) -> RepeatScores:
    """Score each head on repeated random tokens.

    Args:
        model: From :func:`circuitlapse.load_model`.
        n_tokens: n, the number of different tokens, drawn from the whole vocabulary; by default 50,
            or as many as the model can take.
        sequences: How many such sequences to average over.
        seed: Seed of the draw.

    Raises:
        CircuitlapseError: If n is below 3, where the offsets coincide, ``2n`` tokens exceed the
            model's context, or n its vocabulary.
    """
    decoder = model.decoder
    most = min(decoder.n_positions // 2, len(decoder.W_E))
    n_tokens = min(_USUAL, most) if n_tokens is None else n_tokens
    if not 3 <= n_tokens <= most:
        raise CircuitlapseError(f"n_tokens must be from 3 to {most} for this model", got=n_tokens)
    if sequences < 1:
        raise CircuitlapseError("sequences must be at least 1", got=sequences)
    pairs = whole(decoder, repeated_tokens(len(decoder.W_E), n_tokens, sequences, seed))
    offsets = torch.tensor([1, n_tokens, n_tokens - 1])
    total = torch.zeros(len(offsets), decoder.n_layers, decoder.n_heads)

    def work(batch: Suffixes) -> Tensor:
        added = torch.zeros_like(total)
        for layer, pattern in enumerate(patterns(decoder, batch, decoder.n_layers)):
            for index, offset in enumerate(offsets.tolist()):
                weights = pattern.diagonal(-offset, dim1=-2, dim2=-1)
                # The diagonal of induction begins one query before the second half.
                queries = slice(None) if offset == 1 else slice(-n_tokens, None)
                weights = weights[..., queries].float().mean(dim=-1)
                added[index, layer] = weights.sum(dim=0).cpu()
        return added

    def keep(rows: Tensor, added: Tensor) -> None:
        total.add_(added)

    each_whole_batch(decoder, pairs, work, keep)
    return RepeatScores(*(total / sequences))


def repeated_tokens(
    vocabulary: int, n_tokens: int, sequences: int, seed: int
) -> Int[Tensor, "sequences pos"]:
    """Draw n different tokens for each sequence and write them twice."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(vocabulary, generator=generator)[:n_tokens] for _ in range(sequences)]
    return torch.stack(drawn).repeat(1, 2)

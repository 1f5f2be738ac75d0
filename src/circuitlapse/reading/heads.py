"""Scores of a head's two circuits on a token: copy score (OV) and QK detector score.

Elhage et al. (2021) divide a head into an OV circuit (what it writes for a token) and a QK circuit
(which tokens it attends to). Both are measured on the residual stream after block 0, as in Wang et
al. (2022): in most models the first block acts as an extended embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import Norm
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.reading.whole import each_whole_batch, whole
from circuitlapse.shapes import Float, Int

Tokens = PromptPairs | Tensor
_MOST_LOGITS = 2**24
_SAMPLES = (512, 4096)  # sizes of samples of the vocabulary that are tried first


@torch.no_grad()
def copying_scores(
    model: Model,
    tokens: Tokens,
    at: Sequence[str] = (),
    top: int = 5,
    negative: bool = False,
) -> Float[Tensor, "layers heads"]:
    """Return each head's copy score: how often it writes the token that it attends to.

    The residual stream after block 0 goes through the head's normalisation, W_V (with its bias) and
    W_O, and then through the last normalisation and the unembedding (Wang et al. 2022). Attention
    and other components are left out. A token that ties with one below the ``top`` does not count,
    so a head without output has the score 0.

    Args:
        model: From :func:`circuitlapse.load_model`.
        tokens: Pairs, whose clean prompts are used; or token ids, ``[tokens]``, each run as a
            prompt of its own.
        at: With pairs, the named positions of the tokens, such as ``("IO", "S")``.
        top: The token must be among this many largest logits.
        negative: Whether to negate the head's output: the negative copy score of *negative name
            movers*.

    Returns:
        Share of the tokens, between 0 and 1.

    Raises:
        CircuitlapseError: If there is no such position, or the model cannot run the tokens.
    """
    decoder = model.decoder
    ids, streams = _streams(model, tokens, at)
    found = torch.empty(decoder.n_layers, decoder.n_heads)
    rows = max(1, _MOST_LOGITS // len(decoder.W_U))
    for layer, block in enumerate(decoder.attention):
        values = _heads(decoder, block.project(streams[:, None])[2][:, 0])
        for head in range(decoder.n_heads):
            out = values[:, head] @ block.W_O[head]
            out = -out if negative else out
            open_ = _undecided(decoder, out, ids, top)
            n_copied = 0
            for part, own in zip(out[open_].split(rows), ids[open_].split(rows), strict=True):
                logits = decoder.logits(part)
                at_least = logits >= logits.gather(1, own[:, None])
                n_copied += int((at_least.sum(dim=1) <= top).sum())
            found[layer, head] = n_copied / len(ids)
    return found


def _undecided(
    decoder: Decoder, out: Float[Tensor, "tokens d_model"], ids: Int[Tensor, " tokens"], top: int
) -> Int[Tensor, " open"]:
    """Return the tokens that may be among the largest logits by a sample of the vocabulary.

    Only these need the whole vocabulary. The margin covers the rounding of products of other sizes.
    """
    left = torch.arange(len(ids), device=ids.device)
    for size in _SAMPLES:
        every = -(-len(decoder.W_U) // size)
        if every > 1:
            final = decoder.norm(out[left])
            own = (final * decoder.W_U[ids[left]]).sum(dim=1, keepdim=True)
            others = final @ decoder.W_U[::every].T
            margin = 64 * torch.finfo(others.dtype).eps * others.abs().amax(dim=1, keepdim=True)
            left = left[(others > own + margin).sum(dim=1) < top]
    return left


@torch.no_grad()
def matching_scores(
    model: Model,
    tokens: Tokens,
    query: str = "",
    key: str = "",
    offset: int = 8,
) -> Float[Tensor, "layers heads"]:
    """Return each head's QK detector score: how well its queries detect their own token's key.

    Queries and keys come from the residual stream after block 0, with the head's own normalisations
    and biases. The score is the chance that a token's query has a larger product with its own
    token's key than with another token's key (ties count half): 1 for same-token attention, 1/2 for
    no preference, 0 for avoidance. It is the area under the ROC curve of Elhage et al.'s (2021) QK
    circuit as a detector of its own token. It has no scale, so heads and layers can be compared.

    Args:
        model: From :func:`circuitlapse.load_model`.
        tokens: Different token ids, ``[tokens]``, each run as a prompt of its own at the same
            position; or pairs, whose clean prompts are used.
        query: With pairs, the named position of the queries, such as ``S_again``.
        key: With pairs, the named position of the same token's keys, such as ``S``.
        offset: Distance in tokens from key to query, in models with rotary positions; others have
            positions in the stream.

    Raises:
        CircuitlapseError: If the two positions hold different tokens, all tokens are the same, or
            the model cannot run them.
    """
    decoder = model.decoder
    query_ids, query_streams = _streams(model, tokens, (query,) if query else ())
    key_ids, key_streams = _streams(model, tokens, (key,) if key else ())
    if not torch.equal(query_ids, key_ids):
        raise CircuitlapseError(
            "query and key must be positions of the same token",
            got=f"{query} and {key}, which differ",
            fix="Pass the two mentions of one word, such as query='S_again', key='S'",
        )
    other = query_ids[:, None] != key_ids
    if not bool(other.any()):
        raise CircuitlapseError(
            "matching needs at least two different tokens",
            got=f"{len(query_ids)} equal ones",
            fix="Pass other tokens, or prompts with different words at these positions",
        )
    found = torch.empty(decoder.n_layers, decoder.n_heads)
    for layer, block in enumerate(decoder.attention):
        q = _rotated(decoder, block.project(query_streams[:, None])[0], block.q_norm, offset)
        k = _rotated(decoder, block.project(key_streams[:, None])[1], block.k_norm, 0)
        products = torch.einsum("ihd,jhd->hij", q.float(), _heads(decoder, k).float())
        own = products.diagonal(dim1=1, dim2=2)[:, :, None]
        better = (own > products).float() + (own == products).float() / 2
        found[layer] = (better * other).sum(dim=(1, 2)).cpu() / other.sum().cpu()
    return found


def _streams(
    model: Model, tokens: Tokens, at: Sequence[str]
) -> tuple[Int[Tensor, " tokens"], Float[Tensor, "tokens d_model"]]:
    """Return token ids, and the residual stream after the first block at their positions."""
    if isinstance(tokens, PromptPairs) != bool(at):
        raise CircuitlapseError(
            "pairs need names of positions, and token ids take none",
            got=", ".join(at) or "no names",
            fix="Name positions with pairs, for example at=('IO', 'S'), and none with token ids",
        )
    if not isinstance(tokens, PromptPairs):
        if tokens.ndim != 1:
            raise CircuitlapseError(
                "token ids must be a tensor with one dimension",
                got=tuple(tokens.shape),
                fix="Pass tokens.flatten()",
            )
        tokens = tokens[:, None]
    pairs = whole(model.decoder, tokens)
    places = [token_positions(pairs, name) for name in at] or [torch.zeros_like(pairs.lengths)]
    where = torch.stack(places, dim=1)
    ids = pairs.clean.gather(1, where)
    streams = model.decoder.W_E.new_empty(*where.shape, model.decoder.d_model)

    def work(batch: Suffixes) -> Tensor:
        after = model.decoder.step(0, batch.clean, batch.everywhere()).resid_post
        index = torch.arange(len(after), device=after.device)[:, None]
        return after[index, where[batch.rows]]

    each_whole_batch(model.decoder, pairs, work, streams.__setitem__)
    return ids.flatten(), streams.flatten(0, 1)


def _heads(decoder: Decoder, x: Float[Tensor, "tokens _ d_head"]) -> Tensor:
    """Repeat shared values or keys for every head, ``[tokens, heads, d_head]``."""
    return x.repeat_interleave(decoder.n_heads // x.shape[1], dim=1)


def _rotated(decoder: Decoder, x: Tensor, norm: Norm | None, position: int) -> Tensor:
    """Normalise and rotate one token's queries or keys, ``[tokens, 1, heads, d_head]``."""
    x = x if norm is None else norm(x)
    if decoder.rotary is not None:
        x = decoder.rotary(x, torch.full((len(x), 1), position, device=x.device))
    return x[:, 0]

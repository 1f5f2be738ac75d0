"""The directions in which a head's output differs between clean and corrupted prompts.

They are the leading eigenvectors of the sum over prompts, positions and counterfactuals of
(clean - corrupt)(clean - corrupt)^T of a head's output, without centring. A head writes in d_head
dimensions only, so the sum is taken over its mixed values, and mapped through W_O by its QR
decomposition.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from circuitlapse.carriers.old_task_heads import Variants
from circuitlapse.graph import head_of
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.partial_forward import floats_per_token, trace_parts
from circuitlapse.shapes import Float

HALVES = 2
"""Prompts with even and with odd numbers: directions of one are used on the other."""

Directions = Mapping[str, Float[Tensor, "d_model rank"]]


def half_of(n: int, half: int) -> Tensor:
    """Return the row numbers of one half of ``n`` prompts."""
    return torch.arange(half, n, HALVES)


@torch.no_grad()
def difference_directions(
    model: Model, task: Variants, heads: Collection[str], rank: int
) -> list[Directions]:
    """Return each head's leading directions, orthonormal, from each half of the prompts."""
    sums = _sums(model, task)
    found = []
    for half in range(HALVES):
        each = {}
        for name in heads:
            place = head_of(name)
            if place is not None:
                W_O = model.decoder.attention[place.layer].W_O[place.head]
                each[name] = _leading(W_O, sums[half, place.layer, place.head], rank)
        found.append(each)
    return found


def _leading(
    W_O: Float[Tensor, "d_head d_model"], total: Float[Tensor, "d_head d_head"], rank: int
) -> Float[Tensor, "d_model rank"]:
    span, mix = torch.linalg.qr(W_O.T.cpu().double())
    vectors = torch.linalg.eigh(mix @ total @ mix.T).eigenvectors
    return (span @ vectors[:, -rank:]).to(W_O)


def _sums(model: Model, task: Variants) -> Float[Tensor, "halves layers heads d_head d_head"]:
    """Sums over prompts, positions and counterfactuals of products of mixed values."""
    decoder = model.decoder
    heads, d_head, _ = decoder.attention[0].W_O.shape
    sums = torch.zeros(HALVES, decoder.n_layers, heads, d_head, d_head, dtype=torch.double)

    def work(batch: Suffixes) -> Tensor:
        return _batch_sums(decoder, batch)

    def keep(_: Tensor, found: Tensor) -> None:
        sums.add_(found)

    for pairs in task.values():
        # The last layer runs at all positions: its output is part of what the head writes.
        floats = floats_per_token(decoder, ("z", "z"), 1)
        each_batch(decoder, pairs, floats, work, "log_prob", keep=keep)
    return sums


def _batch_sums(decoder: Decoder, batch: Suffixes) -> Tensor:
    context = batch.everywhere()
    clean, corrupt = (
        trace_parts(decoder, x, context, ("z",))[0] for x in (batch.clean, batch.corrupt)
    )
    width = batch.clean.shape[1]
    last = batch.context.reads.amax(dim=1, keepdim=True)
    real = (torch.arange(width, device=last.device) <= last)[..., None, None]
    layers = []
    for ours, theirs in zip(clean, corrupt, strict=True):
        change = (ours.z - theirs.z) * real
        halves = [change[batch.rows % HALVES == half].double() for half in range(HALVES)]
        layers.append(torch.stack([torch.einsum("bqhd,bqhe->hde", x, x) for x in halves]))
    return torch.stack(layers, dim=1).cpu()

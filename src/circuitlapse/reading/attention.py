"""Attention patterns, whole or between named positions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.reading.whole import Prompts, each_whole_batch, patterns, whole
from circuitlapse.shapes import Float, Int


@torch.no_grad()
def attention_patterns(
    model: Model, prompts: Prompts, layer: int, batch_size: int | None = None
) -> Float[Tensor, "prompts heads query key"]:
    """Return one layer's attention weights on whole prompts.

    Args:
        model: From :func:`circuitlapse.load_model`.
        prompts: Pairs, of which the clean prompts are used, or token ids, ``[prompts, pos]``.
        layer: Which layer, from 0.
        batch_size: Prompts per batch; by default as many as fit a fixed memory budget.

    Returns:
        Weights from each query position to each key position. Rows of real tokens add up to 1;
        padding is 0.

    Raises:
        CircuitlapseError: If there is no such layer, or the model cannot run the prompts.
    """
    return attention_of_layers(model, prompts, [layer], batch_size)[:, 0]


@torch.no_grad()
def attention_of_layers(
    model: Model, prompts: Prompts, layers: Sequence[int], batch_size: int | None = None
) -> Float[Tensor, "prompts layers heads query key"]:
    """Return several layers' attention weights in one run; see :func:`attention_patterns`."""
    decoder = model.decoder
    if not layers:
        raise CircuitlapseError("layers is empty", fix="Pass layer numbers, such as [0, 1]")
    for layer in layers:
        if not 0 <= layer < decoder.n_layers:
            raise CircuitlapseError(
                "the model has no such layer",
                got=layer,
                fix=f"Pass a number from 0 to {decoder.n_layers - 1}",
            )
    pairs = whole(decoder, prompts)
    width = pairs.clean.shape[1]
    found = torch.zeros(len(pairs), len(layers), decoder.n_heads, width, width)
    ends = (pairs.logit_positions().amax(dim=1) + 1).cpu()

    def work(batch: Suffixes) -> Tensor:
        first = enumerate(patterns(decoder, batch, max(layers) + 1))
        of_layer = {layer: pattern for layer, pattern in first if layer in layers}
        real = torch.arange(batch.clean.shape[1]) < ends[batch.rows, None]
        weights = torch.stack([of_layer[layer] for layer in layers], dim=1).float().cpu()
        return weights * real[:, None, None, :, None]

    def keep(rows: Tensor, weights: Tensor) -> None:
        wide = weights.shape[-1]
        found[rows, ..., :wide, :wide] = weights

    each_whole_batch(decoder, pairs, work, keep, batch_size)
    return found


def attention_between(
    model: Model, pairs: PromptPairs, source: str, target: str, batch_size: int | None = None
) -> Float[Tensor, "layers heads"]:
    """Return each head's mean attention from one named position to another.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with named positions; only the clean ones are used.
        source: Position of the query: a name of ``pairs.positions``, such as ``END``, or a name
            with a shift in tokens, such as ``S+1``.
        target: Position of the key, likewise.
        batch_size: Prompts per batch; by default as many as fit a fixed memory budget.

    Returns:
        Mean over prompts of the attention weight, between 0 and 1.

    Raises:
        CircuitlapseError: If there is no such position in some prompt, or the target is to the
            right of the source.
    """
    return attention_of_each(model, pairs, [(source, target)], batch_size)[0].mean(dim=-1)


@torch.no_grad()
def attention_of_each(
    model: Model,
    pairs: PromptPairs,
    position_pairs: Sequence[tuple[str, str]],
    batch_size: int | None = None,
) -> Float[Tensor, "position_pairs layers heads prompts"]:
    """Return :func:`attention_between` for several pairs of positions in one run."""
    decoder, pairs = model.decoder, whole(model.decoder, pairs)
    places = places_of(pairs, position_pairs)
    found = torch.empty(len(position_pairs), decoder.n_layers, decoder.n_heads, len(pairs))

    def work(batch: Suffixes) -> Tensor:
        weights = [
            weights_at(each, batch, places) for each in patterns(decoder, batch, decoder.n_layers)
        ]
        return torch.stack(weights, dim=1)

    def keep(rows: Tensor, weights: Tensor) -> None:
        found[..., rows] = weights

    each_whole_batch(decoder, pairs, work, keep, batch_size)
    return found


def places_of(
    pairs: PromptPairs, position_pairs: Sequence[tuple[str, str]]
) -> Int[Tensor, "position_pairs 2 prompts"]:
    """Return the token positions of each pair's query and key in every prompt.

    Raises:
        CircuitlapseError: If the key is to the right of the query.
    """
    places = []
    for source, target in position_pairs:
        query, key = token_positions(pairs, source), token_positions(pairs, target)
        wrong = (key > query).nonzero().flatten()
        if len(wrong):
            raise CircuitlapseError(
                f"{target} is to the right of {source}, where no attention goes",
                got=f"prompt {int(wrong[0])}",
                fix=f"Pass source={target!r}, target={source!r}, or leave such prompts out",
            )
        places.append(torch.stack([query, key]))
    return torch.stack(places) if places else pairs.lengths.new_empty(0, 2, len(pairs))


def weights_at(
    pattern: Float[Tensor, "batch heads query key"],
    batch: Suffixes,
    places: Int[Tensor, "position_pairs 2 prompts"],
) -> Float[Tensor, "position_pairs heads batch"]:
    """Return one layer's weights from each pair's query to its key."""
    query, key = places[:, :, batch.rows.to(places.device)].unbind(dim=1)
    index = torch.arange(len(pattern), device=pattern.device)
    return pattern[index, :, query, key].transpose(1, 2).float().cpu()

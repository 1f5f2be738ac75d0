"""Attention patterns: from where each head takes what it moves."""

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
        raise CircuitlapseError("no layer is asked for", fix="Name layers, such as [0, 1]")
    for layer in layers:
        if not 0 <= layer < decoder.n_layers:
            raise CircuitlapseError(
                f"the model's layers are 0 to {decoder.n_layers - 1}", got=layer
            )
    pairs = whole(decoder, prompts)
    width = pairs.clean.shape[1]
    found = torch.zeros(len(pairs), len(layers), decoder.n_heads, width, width)
    ends = (pairs.logit_positions().amax(dim=1) + 1).cpu()

    def work(batch: Suffixes) -> Tensor:
        all_of_them = enumerate(patterns(decoder, batch, max(layers) + 1))
        seen = {layer: pattern for layer, pattern in all_of_them if layer in layers}
        real = torch.arange(batch.clean.shape[1]) < ends[batch.rows, None]
        weights = torch.stack([seen[layer] for layer in layers], dim=1).float().cpu()
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
    ways: Sequence[tuple[str, str]],
    batch_size: int | None = None,
) -> Float[Tensor, "ways layers heads prompts"]:
    """Return :func:`attention_between` for several pairs of positions in one run."""
    decoder, pairs = model.decoder, whole(model.decoder, pairs)
    places = places_of(pairs, ways)
    found = torch.empty(len(ways), decoder.n_layers, decoder.n_heads, len(pairs))

    def work(batch: Suffixes) -> Tensor:
        seen = patterns(decoder, batch, decoder.n_layers)
        return torch.stack([weights_at(pattern, batch, places) for pattern in seen], dim=1)

    def keep(rows: Tensor, weights: Tensor) -> None:
        found[..., rows] = weights

    each_whole_batch(decoder, pairs, work, keep, batch_size)
    return found


def places_of(pairs: PromptPairs, ways: Sequence[tuple[str, str]]) -> Int[Tensor, "ways 2 prompts"]:
    """Positions of each way's query and key in every prompt.

    Raises:
        CircuitlapseError: If the key is to the right of the query.
    """
    places = []
    for source, target in ways:
        query, key = token_positions(pairs, source), token_positions(pairs, target)
        wrong = (key > query).nonzero().flatten()
        if len(wrong):
            raise CircuitlapseError(
                f"{target} stands to the right of {source}, where no attention goes",
                got=f"prompt {int(wrong[0])}",
                fix="Exchange source and target, or leave such prompts out",
            )
        places.append(torch.stack([query, key]))
    return torch.stack(places) if places else pairs.lengths.new_empty(0, 2, len(pairs))


def weights_at(
    pattern: Float[Tensor, "batch heads query key"],
    batch: Suffixes,
    places: Int[Tensor, "ways 2 prompts"],
) -> Float[Tensor, "ways heads batch"]:
    """Take one layer's weights from each way's query to its key."""
    query, key = places[:, :, batch.rows.to(places.device)].unbind(dim=1)
    index = torch.arange(len(pattern), device=pattern.device)
    return pattern[index, :, query, key].transpose(1, 2).float().cpu()

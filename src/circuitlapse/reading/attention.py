"""Attention patterns: from where each head takes what it moves."""

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes
from circuitlapse.reading.whole import Prompts, each_whole_batch, patterns, whole
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs
from circuitlapse.tasks.places import place


@torch.no_grad()
def attention_patterns(
    model: Model, prompts: Prompts, layer: int, batch_size: int | None = None
) -> Float[Tensor, "prompts heads query key"]:
    """Return one layer's attention weights on whole prompts.

    Args:
        model: From :func:`circuitlapse.load_model`.
        prompts: Pairs, of which the clean prompts are read, or token ids, ``[prompts, pos]``.
        layer: Which layer, from 0.
        batch_size: Prompts per batch; by default as many as fit a fixed memory budget.

    Returns:
        Weights from each query position to each key position. Every row of a real token adds up
        to 1; rows and columns behind a prompt's end are 0.

    Raises:
        CircuitlapseError: If there is no such layer, or the model cannot run the prompts.
    """
    decoder = model.decoder
    if not 0 <= layer < decoder.n_layers:
        raise CircuitlapseError(f"the model's layers are 0 to {decoder.n_layers - 1}", got=layer)
    pairs = whole(decoder, prompts)
    width = pairs.clean.shape[1]
    found = torch.zeros(len(pairs), decoder.n_heads, width, width)
    ends = (pairs.reads().amax(dim=1) + 1).cpu()

    def work(batch: Suffixes) -> None:
        # The layer is the last one to be run.
        *_, pattern = patterns(decoder, batch, layer + 1)
        rows, wide = batch.rows, batch.clean.shape[1]
        real = (torch.arange(wide) < ends[rows, None])[:, None, :, None]
        found[rows, :, :wide, :wide] = pattern.float().cpu() * real

    each_whole_batch(decoder, pairs, work, batch_size)
    return found


def attention_between(
    model: Model, pairs: PromptPairs, source: str, target: str, batch_size: int | None = None
) -> Float[Tensor, "layers heads"]:
    """Return each head's mean attention from one named position to another.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with named positions; only the clean ones are read.
        source: Where the query stands: a name of ``pairs.positions``, such as ``END``, or a name
            with a shift in tokens, such as ``S+1``.
        target: Where the key stands, likewise.
        batch_size: Prompts per batch; by default as many as fit a fixed memory budget.

    Returns:
        Mean over prompts of the attention weight, between 0 and 1.

    Raises:
        CircuitlapseError: If there is no such position, it falls outside a prompt, or the target
            stands to the right of the source, where no attention goes.
    """
    return attention_of_each(model, pairs, [(source, target)], batch_size)[0].mean(dim=-1)


@torch.no_grad()
def attention_of_each(
    model: Model,
    pairs: PromptPairs,
    ways: list[tuple[str, str]],
    batch_size: int | None = None,
) -> Float[Tensor, "ways layers heads prompts"]:
    """Return attention from one named position to another, for several such ways in one run.

    See :func:`attention_between`.
    """
    decoder, pairs = model.decoder, whole(model.decoder, pairs)
    places = [tuple(place(pairs, name) for name in way) for way in ways]
    for (source, target), (query, key) in zip(ways, places, strict=True):
        wrong = (key > query).nonzero().flatten()
        if len(wrong):
            raise CircuitlapseError(
                f"{target} stands to the right of {source}, where no attention goes",
                got=f"prompt {int(wrong[0])}",
                fix="Exchange source and target, or leave such prompts out",
            )
    found = torch.empty(len(ways), decoder.n_layers, decoder.n_heads, len(pairs))

    def work(batch: Suffixes) -> None:
        rows = batch.rows
        index = torch.arange(len(rows), device=pairs.clean.device)
        for layer, pattern in enumerate(patterns(decoder, batch, decoder.n_layers)):
            for way, (query, key) in enumerate(places):
                weights = pattern[index, :, query[rows], key[rows]]
                found[way, layer, :, rows] = weights.T.float().cpu()

    each_whole_batch(decoder, pairs, work, batch_size)
    return found

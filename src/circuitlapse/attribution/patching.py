"""Exact activation patching: run one prompt with an activation of its partner put in.

Every number is a real forward pass with one activation replaced, never an estimate. Runs restart at
the patched layer from the cached residual stream, on the columns from the first differing token on,
and all patches of one layer ride in one batch.
"""

from typing import Literal

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Decoder, Step
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.shapes import Float
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs

Site = Literal["head_out", "mlp_out", "attn_out", "resid_pre"]
Direction = Literal["noising", "denoising"]
_PART_FLOATS = 2**18
_SITES = ("head_out", "mlp_out", "attn_out", "resid_pre")


@torch.no_grad()
def node_effects(
    model: Model,
    pairs: PromptPairs,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "prompts nodes"]:
    """Effect of giving each head and each MLP its corrupted output, at all positions.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their answers.
        metric: See :mod:`circuitlapse.tasks.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Clean metric minus patched metric, in its unit (logits): positive where the model needs the
        node. The nodes are in the order of ``model.graph.nodes``.
    """
    decoder, graph = model.decoder, model.graph
    effects = torch.empty(len(pairs), graph.n_layers, graph.n_heads + 1)

    def work(batch: Suffixes) -> None:
        clean = decoder.trace(batch.clean, batch.context)
        corrupt = decoder.trace(batch.corrupt, batch.context)
        before = batch.metric(decoder, clean[-1].resid_post)
        for layer in range(graph.n_layers):
            heads = _head_variants(decoder, layer, clean, corrupt)
            mlp = clean[layer].resid_post + (corrupt[layer].mlp_out - clean[layer].mlp_out)
            after = _metric(decoder, batch, layer + 1, torch.cat([heads, mlp[None]]))
            effects[batch.rows, layer] = (before - after).T.float().cpu()

    each_batch(
        decoder, pairs, _floats_per_token(decoder), work, metric=metric, batch_size=batch_size
    )
    return effects.flatten(1)


@torch.no_grad()
def patch(
    model: Model,
    pairs: PromptPairs,
    site: Site = "head_out",
    direction: Direction = "noising",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "layers _"]:
    """Sweep one kind of activation over the model, exactly.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their metric.
        site: What is patched: a head's output at all positions (``head_out``), or at one position
            the attention's output (``attn_out``), the MLP's output (``mlp_out``) or the residual
            stream before a block (``resid_pre``).
        direction: ``noising`` puts corrupt activations into the clean run: a large result means
            that the activation is needed. ``denoising`` puts clean activations into the corrupt
            run: a result well below clean − corrupt means that the activation helps by itself.
        metric: See :mod:`circuitlapse.tasks.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Mean clean metric minus patched metric, in logits: ``[layer, head]`` for ``head_out``, else
        ``[layer, position]``, where the mean is over the prompts that are so long.

    Raises:
        CircuitlapseError: If site or direction is unknown, or the model cannot run the pairs.
    """
    if site not in _SITES:
        raise CircuitlapseError(
            "there is no such site to patch", got=site, fix=f"Use one of {', '.join(_SITES)}"
        )
    if direction not in ("noising", "denoising"):
        raise CircuitlapseError(
            "direction must be noising or denoising",
            got=direction,
            fix="noising puts corrupt activations into the clean run, denoising the reverse",
        )
    decoder, graph = model.decoder, model.graph
    by_head, lengths = site == "head_out", pairs.lengths.cpu()
    width = graph.n_heads if by_head else int(lengths.max())
    effects = torch.zeros(len(pairs), graph.n_layers, width, dtype=torch.float64)

    def work(batch: Suffixes) -> None:
        clean = decoder.trace(batch.clean, batch.context)
        corrupt = decoder.trace(batch.corrupt, batch.context)
        base, source = (clean, corrupt) if direction == "noising" else (corrupt, clean)
        before = batch.metric(decoder, clean[-1].resid_post)
        # Left of the first difference, and wherever nothing is read, a patch changes nothing.
        unpatched = before - batch.metric(decoder, base[-1].resid_post)
        rows, context = batch.rows, batch.context
        effects[rows] = unpatched[:, None, None].double().cpu()
        for layer in range(graph.n_layers):
            first, variants = _variants(decoder, site, layer, base, source)
            after = (before - _metric(decoder, batch, first, variants)).T.double().cpu()
            if by_head:
                effects[rows, layer] = after
                continue
            # The last layer's attention and MLP matter where logits are read only.
            at_reads = decoder.is_last(layer) and site != "resid_pre"
            place = context.positions(batch.clean.shape[1], at_reads).cpu()
            place = place.expand(len(rows), -1)
            real = place < batch.pairs.lengths[:, None].cpu()
            index = rows[:, None].expand(-1, place.shape[1])
            effects[index[real], layer, place[real]] = after[real]

    each_batch(
        decoder, pairs, _floats_per_token(decoder), work, metric=metric, batch_size=batch_size
    )
    if by_head:
        return effects.mean(dim=0).float()
    real = (torch.arange(width) < lengths[:, None])[:, None]
    return ((effects * real).sum(dim=0) / real.sum(dim=0)).float()


def _variants(
    decoder: Decoder, site: Site, layer: int, base: list[Step], source: list[Step]
) -> tuple[int, Float[Tensor, "variants batch pos d_model"]]:
    """Residual streams with one activation of ``layer`` replaced, and the layer that reads them."""
    ours, theirs = base[layer], source[layer]
    if site == "head_out":
        return layer + 1, _head_variants(decoder, layer, base, source)
    if site == "attn_out":
        change = theirs.attn_out - ours.attn_out
        return layer + 1, _after_attention(decoder, layer, ours, _by_position(change))
    if site == "mlp_out":
        return layer + 1, ours.resid_post + _by_position(theirs.mlp_out - ours.mlp_out)
    return layer, ours.resid_pre + _by_position(theirs.resid_pre - ours.resid_pre)


def _head_variants(
    decoder: Decoder, layer: int, base: list[Step], source: list[Step]
) -> Float[Tensor, "heads batch pos d_model"]:
    """Residual streams behind a layer with each of its heads in turn taken from ``source``."""
    change = source[layer].z - base[layer].z
    out = torch.bmm(change.flatten(0, 1).transpose(0, 1), decoder.attention[layer].W_O)
    return _after_attention(decoder, layer, base[layer], out.unflatten(1, change.shape[:2]))


def _after_attention(
    decoder: Decoder, layer: int, ours: Step, change: Float[Tensor, "variants batch pos d_model"]
) -> Float[Tensor, "variants batch pos d_model"]:
    """Residual streams behind a layer whose attention adds so much more; overwrites ``change``."""
    if decoder.parallel:
        return change.add_(ours.resid_post)
    mid = change.add_(ours.resid_mid)
    return torch.cat([part + decoder.mlp[layer](part) for part in _parts(mid)])


def _by_position(
    change: Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "pos batch pos d_model"]:
    """The change at one position and nothing elsewhere, for each position."""
    width = change.shape[1]
    variants = change.new_zeros(width, *change.shape)
    index = torch.arange(width, device=change.device)
    variants[index, :, index] = change.transpose(0, 1)
    return variants


def _metric(
    decoder: Decoder,
    batch: Suffixes,
    layer: int,
    variants: Float[Tensor, "variants batch pos d_model"],
) -> Float[Tensor, "variants batch"]:
    """Run all variants from ``layer`` on and read their metric."""
    after = []
    for part in _parts(variants):
        final = decoder.run(part.flatten(0, 1), batch.context, layer)
        after.append(batch.metric(decoder, final).unflatten(0, (len(part), -1)))
    return torch.cat(after)


def _parts(variants: Tensor) -> tuple[Tensor, ...]:
    """Split variants so that one part's hidden activations stay near the processor's cache."""
    return variants.split(max(1, _PART_FLOATS // variants[0].numel()))


def _floats_per_token(decoder: Decoder) -> int:
    """Two traces, all variants of a layer, and one part's run."""
    return decoder.d_model * (2 * 12 * decoder.n_layers + 3 * decoder.n_heads + 16)

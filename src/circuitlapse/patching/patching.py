"""Activation patching: one prompt's activation is patched into the run on its partner.

Every number is a forward pass with one activation replaced (Vig et al. 2020; Meng et al. 2022;
Zhang and Nanda 2024 on its use and its two directions), not a gradient estimate. ``sites`` computes
the change in the patched layer, ``partial_forward`` the rest of the run.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import HeadSite, Site, StreamSite
from circuitlapse.models.engine.decoder import Decoder, Step
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.partial_forward import (
    Tail,
    each_tail,
    floats_per_token,
    moves,
    trace_parts,
)
from circuitlapse.patching.sites import (
    NEEDS,
    SHARED,
    head_changes,
    n_slots,
    shared_changes,
    single_values,
)
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.shapes import Float, Int

Direction = Literal["noising", "denoising"]


@torch.no_grad()
def node_effects(
    model: Model,
    pairs: PromptPairs,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
) -> Float[Tensor, "prompts nodes"]:
    """Patch the corrupt output of each head and each MLP into the clean run, at all positions.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their answers.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Returns:
        Clean metric minus patched metric, in its unit (logits): positive where the node is
        necessary, and exactly 0 where its output is the same. The nodes are in the order of
        ``model.graph.nodes``.
    """
    decoder, graph = model.decoder, model.graph
    effects = torch.empty(len(pairs), graph.n_layers, graph.n_heads + 1)
    needs = ("z", "mlp_out")

    def work(batch: Suffixes) -> Tensor:
        found = torch.empty(len(batch.rows), *effects.shape[1:])
        clean = decoder.trace(batch.clean, batch.context)
        corrupt, _ = trace_parts(decoder, batch.corrupt, batch.context, needs)
        before = batch.metric(decoder, clean[-1].resid_post)
        whole = Tail.at(decoder, batch, clean)
        for layer, (ours, theirs) in enumerate(zip(clean, corrupt, strict=True)):
            heads = head_changes(decoder, "head_out", layer, ours, theirs, batch.context)
            mlp = (theirs.mlp_out - ours.mlp_out)[None]
            after = torch.cat([whole.after_attention(layer, heads), whole.after_mlp(layer, mlp)])
            changed = torch.cat([moves(heads), moves(mlp)])
            found[:, layer] = (before - after).where(changed, 0.0).T.float().cpu()
        return found

    floats = floats_per_token(decoder, needs, graph.n_heads)
    each_batch(
        decoder,
        pairs,
        floats,
        work,
        keep=effects.__setitem__,
        metric=metric,
        batch_size=batch_size,
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
    *,
    per_position: bool = False,
    positions: Sequence[str] = (),
) -> Float[Tensor, "layers ..."]:
    """Patch one type of activation at every layer, and at every head or position.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Clean and corrupt prompts with their metric.
        site: The activation type. At one position: the residual stream before a block
            (``resid_pre``), the attention output (``attn_out``) or the MLP output (``mlp_out``). In
            one head, at all positions unless ``per_position``: its output (``head_out``), its
            query, key or value before rotation (``head_q``, ``head_k``, ``head_v``), or its
            attention weights (``head_pattern``). With grouped queries, ``head_k`` and ``head_v``
            are of key-value heads, and a patch reaches all heads that share one.
        direction: ``noising`` patches corrupt activations into the clean run: a large effect means
            that the activation is necessary. ``denoising`` patches clean activations into the
            corrupt run: an effect well below clean − corrupt means that the activation helps by
            itself.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget. It does not
            change the result.
        per_position: For heads, patch one position at a time: of the output (``head_out``), the
            query (``head_q``, ``head_pattern``), or the key or value (``head_k``, ``head_v``).
        positions: Patch one position at a time, only at these named positions of the pairs, perhaps
            with a shift such as ``END-1``. This is faster, and aligns prompts of different lengths.

    Returns:
        Mean clean metric minus patched metric, in the metric's unit (logits): ``[layer,
        position]``, ``[layer, head]`` or ``[layer, head, position]``, with key-value heads for
        ``head_k`` and ``head_v``. At a position the mean is over the prompts that reach it, at a
        named one over all. A patch that cannot reach the logits has exactly the effect of no patch.

    Raises:
        CircuitlapseError: If site or direction is unknown, ``per_position`` is given for a site
            without heads or ``positions`` for heads without it, a position does not exist, or the
            model cannot run the pairs.
    """
    _check(site, direction, per_position, named=bool(positions))
    sums = torch.zeros(1, 1, 1, dtype=torch.float64)

    def add(_: Tensor, effects: Tensor) -> None:
        nonlocal sums
        sums = sums + effects.sum(dim=-1, dtype=torch.float64)

    _each_effects(model, pairs, site, direction, metric, batch_size, per_position, positions, add)
    if not _by_position(site, per_position):
        return (sums / len(pairs)).squeeze(2).float()
    n_long: Tensor | int = len(pairs)
    if not positions:
        n_long = (torch.arange(sums.shape[2]) < pairs.lengths.cpu()[:, None]).sum(dim=0)
    means = (sums / n_long).float()
    return means if site in get_args(HeadSite) else means.squeeze(1)


@torch.no_grad()
def patch_effects(
    model: Model,
    pairs: PromptPairs,
    site: Site = "head_out",
    direction: Direction = "noising",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    per_position: bool = False,
    positions: Sequence[str] = (),
) -> Float[Tensor, "layers slots columns prompts"]:
    """Return the effect of every patch of :func:`patch` on every prompt.

    It is the clean metric minus the patched metric (logits), 0 after a prompt's end. Sites of the
    stream have one slot, and patches at all positions have one position.

    Raises:
        CircuitlapseError: As :func:`patch` does.
    """
    _check(site, direction, per_position, named=bool(positions))
    found = torch.zeros(0)

    def keep(rows: Tensor, effects: Tensor) -> None:
        nonlocal found
        if not found.numel():
            found = torch.zeros(*effects.shape[:3], len(pairs))
        found[..., rows] = effects

    _each_effects(model, pairs, site, direction, metric, batch_size, per_position, positions, keep)
    return found


def _each_effects(
    model: Model,
    pairs: PromptPairs,
    site: Site,
    direction: Direction,
    metric: Metric,
    batch_size: int | None,
    per_position: bool,
    positions: Sequence[str],
    keep: Callable[[Int[Tensor, " batch"], Float[Tensor, "layers slots columns batch"]], None],
) -> None:
    """Call ``keep`` with each batch's rows and effects, on the CPU."""
    positions = (positions,) if isinstance(positions, str) else positions
    by_position = _by_position(site, per_position)
    decoder, graph, lengths = model.decoder, model.graph, pairs.lengths.cpu()
    named = [token_positions(pairs, name).cpu() for name in positions]
    shape = (
        graph.n_layers,
        n_slots(graph, site) if site in get_args(HeadSite) else 1,
        (len(named) or int(lengths.max())) if by_position else 1,
    )

    def work(batch: Suffixes) -> Tensor:
        inputs = (batch.clean, batch.corrupt)
        ours, theirs = inputs if direction == "noising" else inputs[::-1]
        base = decoder.trace(ours, batch.context)
        source, final = trace_parts(decoder, theirs, batch.context, NEEDS[site])
        unpatched = batch.metric(decoder, base[-1].resid_post)
        before = unpatched if direction == "noising" else batch.metric(decoder, final)
        if not by_position:
            effects = before - _by_head(decoder, site, batch, base, source, unpatched)
            return effects[:, :, None].float().cpu()
        # Columns begin at each prompt's first difference, and may be padding or the answer's.
        rows, width = batch.rows, batch.clean.shape[1]
        first = batch.context.positions(1, False)[:, 0].cpu()
        columns = torch.arange(width)[:, None].expand(-1, len(rows))
        if named:
            columns = torch.stack([where[rows] for where in named]) - first
        inside = (columns >= 0) & (columns < width) & (columns + first < lengths[rows])
        some = inside.any(dim=1).nonzero().flatten()
        after = unpatched.expand(*shape[:2], len(some), -1).clone()
        chosen = columns[some].clamp(0, width - 1).to(unpatched.device)
        _fill_by_position(after, decoder, site, batch, base, source, chosen)
        effects = (before - unpatched).float().cpu().expand(*shape, -1).clone()
        which, row = inside[some].nonzero().unbind(dim=1)
        to = some[which] if named else columns[some[which], row] + first[row]
        effects[:, :, to, row] = (before - after).float().cpu()[:, :, which, row]
        if not named:
            effects *= torch.arange(shape[2])[:, None] < lengths[rows]
        return effects

    floats = floats_per_token(decoder, NEEDS[site], shape[1])
    each_batch(decoder, pairs, floats, work, keep=keep, metric=metric, batch_size=batch_size)


def _by_position(site: str, per_position: bool) -> bool:
    return per_position or site not in get_args(HeadSite)


def _check(site: str, direction: str, per_position: bool, named: bool) -> None:
    sites = (*get_args(StreamSite), *get_args(HeadSite))
    if site not in sites:
        raise CircuitlapseError(
            "there is no such site to patch", got=site, fix=f"Use one of {', '.join(sites)}"
        )
    check_direction(direction)
    if per_position and site not in get_args(HeadSite):
        raise CircuitlapseError(
            "per_position is for the sites of heads",
            got=site,
            fix=f"{site} is patched by position as it is: leave per_position out",
        )
    if named and not _by_position(site, per_position):
        raise CircuitlapseError(
            "heads are patched at all positions together unless per_position is given",
            got=site,
            fix="Add per_position=True, or leave positions out",
        )


def check_direction(direction: str) -> None:
    """Check that a direction is ``noising`` or ``denoising``.

    Raises:
        CircuitlapseError: If it is neither.
    """
    if direction not in get_args(Direction):
        raise CircuitlapseError(
            "direction must be noising or denoising",
            got=direction,
            fix="noising puts corrupt activations into the clean run, denoising the reverse",
        )


def _by_head(
    decoder: Decoder,
    site: Site,
    batch: Suffixes,
    base: list[Step],
    source: list[Step],
    unpatched: Float[Tensor, " batch"],
) -> Float[Tensor, "layers slots batch"]:
    """Return the metric with each head's activation patched at all positions."""
    whole = Tail.at(decoder, batch, base)
    after = []
    for layer, (ours, theirs) in enumerate(zip(base, source, strict=True)):
        change = head_changes(decoder, site, layer, ours, theirs, batch.context)
        after.append(whole.after_attention(layer, change).where(moves(change), unpatched))
    return torch.stack(after)


def _fill_by_position(
    after: Float[Tensor, "layers slots some batch"],
    decoder: Decoder,
    site: Site,
    batch: Suffixes,
    base: list[Step],
    source: list[Step],
    columns: Int[Tensor, "some batch"],
) -> None:
    """Fill in the metric with each activation patched at one position, where that can matter."""
    context, last = batch.context, decoder.n_layers - 1
    for which, tail in each_tail(decoder, batch, base, columns):
        few = columns[which]
        for layer, theirs in enumerate(source):
            if site in SHARED:
                change = shared_changes(site, layer, theirs, tail, few)
                metric = tail.after_attention(layer, change.flatten(0, 1))
                after[layer, :, which] = metric.unflatten(0, change.shape[:2])
            elif layer < last or site == "resid_pre":
                reader, values = single_values(
                    decoder, site, layer, base[layer], theirs, context, few
                )
                after[layer, :, which] = tail.replaced(reader, few, values)
    if site in SHARED or site == "resid_pre":
        return
    # What the last layer adds matters where logits are read only, and for each read by itself.
    _, values = single_values(decoder, site, last, base[last], source[last], context)
    whole = Tail.at(decoder, batch, base)
    for column in context.reads.unbind(dim=1):
        here = (context.reads == column[:, None])[..., None]
        metric = whole.metric(torch.where(here, values, base[last].resid_post))
        after[last] = torch.where(columns == column, metric[:, None], after[last])

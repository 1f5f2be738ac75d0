"""Activation patching: one prompt's activation is patched into the run on its partner.

Every number is a forward pass with one activation replaced (Vig et al. 2020; Meng et al. 2022;
Zhang and Nanda 2024 on its use and its two directions), not a gradient estimate. ``sites`` computes
the change in the patched layer, ``partial_forward`` the rest of the run.
"""

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import HeadSite, Site, StreamSite
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.patching.directions import Direction, check_direction, run_both
from circuitlapse.patching.partial_forward import floats_per_token
from circuitlapse.patching.sites import NEEDS, SitePatches
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.shapes import Float, Int


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
) -> Float[Tensor, "layers slots pos prompts"]:
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
    keep: Callable[[Int[Tensor, " batch"], Float[Tensor, "layers slots pos batch"]], None],
) -> None:
    """Call ``keep`` with each batch's rows and effects, on the CPU."""
    positions = (positions,) if isinstance(positions, str) else positions
    decoder, graph, lengths = model.decoder, model.graph, pairs.lengths.cpu()
    named = [token_positions(pairs, name).cpu() for name in positions]
    n_pos = len(named) or int(lengths.max())
    slots = 1
    if site in get_args(HeadSite):
        slots = graph.n_kv_heads if site in ("head_k", "head_v") else graph.n_heads

    def work(batch: Suffixes) -> Tensor:
        runs = run_both(decoder, batch, NEEDS[site], direction)
        patches = SitePatches(runs, site)
        if not _by_position(site, per_position):
            effects = runs.clean - patches.at_all_positions()
            return effects[:, :, None].float().cpu()
        # The batch begins at each prompt's first difference, and may hold padding.
        rows, width = batch.rows, batch.clean.shape[1]
        first = batch.context.positions(1, False)[:, 0].cpu()
        pos = torch.arange(width)[:, None].expand(-1, len(rows))
        if named:
            pos = torch.stack([where[rows] for where in named]) - first
        inside = (pos >= 0) & (pos < width) & (pos + first < lengths[rows])
        some = inside.any(dim=1).nonzero().flatten()
        after = runs.unpatched.expand(graph.n_layers, slots, len(some), -1).clone()
        chosen = pos[some].clamp(0, width - 1).to(after.device)
        patches.fill_by_position(after, chosen)
        effects = (runs.clean - runs.unpatched).float().cpu()
        effects = effects.expand(graph.n_layers, slots, n_pos, -1).clone()
        which, row = inside[some].nonzero().unbind(dim=1)
        to = some[which] if named else pos[some[which], row] + first[row]
        effects[:, :, to, row] = (runs.clean - after).float().cpu()[:, :, which, row]
        if not named:
            effects *= torch.arange(n_pos)[:, None] < lengths[rows]
        return effects

    floats = floats_per_token(decoder, NEEDS[site], slots)
    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=keep)


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

"""Scores of all edges by one of several methods, from gradient estimates to exact effects."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from circuitlapse.attribution.activations import eap_ig_activations_scores
from circuitlapse.attribution.eap import check_gradient_at_clean, eap_ig_scores, eap_scores
from circuitlapse.attribution.edge_parts import Parts, check_positions, with_elsewhere
from circuitlapse.attribution.exact import exact_scores
from circuitlapse.attribution.scores import Scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs

Method = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "exact"]


def attribute(
    model: Model,
    pairs: PromptPairs,
    method: Method = "eap-ig-inputs",
    steps: int = 5,
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    qk_fix: bool = False,
    by_position: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score every edge of the model on the pairs.

    Args:
        method: ``eap`` (one gradient), ``eap-ig-inputs`` (``steps`` gradients, more faithful),
            ``eap-ig-activations`` (``steps`` gradients for each layer's attention and MLP) or
            ``exact`` (a patched run for every edge, each about half of a forward pass;
            :func:`project_exact` estimates the time).
        steps: m of the two EAP-IG methods; the others ignore it.
        metric: The metric that edges are scored for; see :mod:`circuitlapse.prompts.metrics`.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget. It does not
            change the result.
        qk_fix: For ``eap``: recompute the softmax for edges into queries and keys, whose estimates
            fail where attention is saturated; see :mod:`circuitlapse.attribution.eap`.
        by_position: Return scores per named position too, in ``scores.by_position``. ``exact`` then
            takes as long again for each name, and once for all other positions.
        progress: Called with the work done and the total: edges times pairs for ``exact``, else
            pairs.

    Raises:
        CircuitlapseError: If the method is unknown, an option does not belong to it, or the model
            cannot run the pairs.
    """
    _check(method, steps, metric, qk_fix)
    if by_position:
        check_positions(pairs)
    names = tuple(pairs.positions) if by_position else ()
    if method == "exact":
        return exact_scores(model, pairs, metric, batch_size, names, progress)
    decoder, graph, n = model.decoder, model.graph, len(pairs)
    shares = with_elsewhere(names)
    sums = torch.zeros(2 + len(shares), *graph.edges.shape, dtype=torch.float64)
    done = 0

    def work(batch: Suffixes) -> Tensor:
        parts = Parts(batch, names)
        if method == "eap":
            return eap_scores(decoder, graph, batch, parts, qk_fix)
        if method == "eap-ig-inputs":
            return eap_ig_scores(decoder, graph, batch, parts, steps)
        return eap_ig_activations_scores(decoder, graph, batch, parts, steps)

    def keep(rows: Tensor, found: Tensor) -> None:
        nonlocal done
        sums.add_(found)
        done += len(rows)
        if progress:
            progress(done, n)

    n_points = 1 if method == "eap" else steps
    floats = decoder.d_model * (
        len(graph.writers) + 3 * graph.n_heads + graph.n_layers * (24 + n_points)
    )
    if decoder.W_E.itemsize < 4:
        floats *= 2  # gradients and their factors are in single precision
    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=keep, needs_gradient=True)
    return Scores.from_sums(graph, sums, n, shares)


def _check(method: str, steps: int, metric: Metric, qk_fix: bool) -> None:
    if method not in get_args(Method):
        raise CircuitlapseError(
            "there is no such attribution method",
            got=method,
            fix=f"Use {', '.join(get_args(Method)[:-1])} or exact",
        )
    if steps < 1:
        raise CircuitlapseError("steps must be at least 1", got=steps)
    if qk_fix and method != "eap":
        raise CircuitlapseError(
            "qk_fix is defined for eap only",
            got=method,
            fix="Use method='eap', or leave qk_fix out",
        )
    if method == "eap":
        check_gradient_at_clean(metric)

"""Overlap of the importances of any two (model, task) pairs, with an interval and a null.

An overlap by itself says nothing (Prakash et al. 2024 read "enhancement" from circuits that share
54 of 175 heads). That of nodes has two figures to compare it with:

- its *interval*: how far it moves when the prompts are drawn again;
- the *null*: the same overlap when head labels are shuffled within each layer, and the
  share of shuffles that reach the value (one-sided, (k + 1)/(n + 1)).

An overlap that does not exist is a row without a value that says why.

Importances are unnormalised, in logits. Both sides must come from one counterfactual type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Bool, Float, Int
from circuitlapse.stats.intervals import (
    Estimate,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)
from circuitlapse.stats.permutations import shuffle_heads
from circuitlapse.stats.similarity import (
    SIMILARITIES,
    p_value,
    shuffled,
    spread_interval,
)

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class NodeImportance:
    """Per-prompt effects of every node of one model on one task, in logits.

    Conditions on the same task share their prompts.
    """

    model: str
    task: str
    effects: Float[np.ndarray, "prompts nodes"]


@dataclass(frozen=True)
class EdgeImportance:
    """Edge scores of one model on one task."""

    model: str
    task: str
    mean: Float[np.ndarray, "writers readers"]


@dataclass(frozen=True)
class Overlap:
    """One row of the table ``overlap``, without the columns that name the run and counterfactual.

    ``interval`` is None for edges, of which no per-prompt scores exist. Edges have no null either.
    ``not_reported`` says why ``value`` is None where it is.
    """

    unit: str
    left: str
    right: str
    measure: str
    value: float | None = None
    interval: Estimate | None = None
    null_mean: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    not_reported: str = ""


def node_overlaps(
    conditions: Sequence[NodeImportance],
    nodes: Sequence[str],
    *,
    seed: int,
    pairs: Pairs | None = None,
    permutations: int = 1000,
    repeats: int = 1000,
) -> list[Overlap]:
    """Overlap of node importances for pairs of conditions, by default for all.

    ``nodes`` names the columns and has all heads of the graph. Conditions of one task are resampled
    with the same prompts, those of different tasks independently.

    Raises:
        CircuitlapseError: If shapes disagree or there are fewer than four prompts.
    """
    for condition in conditions:
        _check(condition, len(nodes))
    tasks = sorted({condition.task for condition in conditions})
    resamples = []
    for condition in conditions:
        effects = condition.effects.astype(np.float64)
        stream = tasks.index(condition.task)
        indices = bootstrap_indices(len(effects), repeats, [seed, 1, stream])
        resamples.append(bootstrap_means(effects, indices))
    return _compare(
        "nodes",
        [_label(condition) for condition in conditions],
        np.stack([condition.effects.mean(axis=0, dtype=np.float64) for condition in conditions]),
        pairs,
        resamples,
        shuffle_heads(nodes, permutations, [seed, 0]),
    )


def edge_overlaps(
    conditions: Sequence[EdgeImportance],
    writers: Sequence[str],
    readers: Sequence[str],
    edges: Bool[np.ndarray, "writers readers"],
) -> list[Overlap]:
    """Overlap of edge scores for every two conditions; ``edges`` masks the edges that exist.

    Raises:
        CircuitlapseError: If shapes disagree.
    """
    shape = (len(writers), len(readers))
    for condition in conditions:
        if edges.shape != shape or condition.mean.shape != shape:
            raise CircuitlapseError(
                "edge scores need one row per writer and one column per reader",
                got=f"{condition.mean.shape} and a mask of {edges.shape} for {shape}",
            )
    return _compare(
        "edges",
        [_label(condition) for condition in conditions],
        np.stack([condition.mean[edges].astype(np.float64) for condition in conditions]),
    )


def _check(condition: NodeImportance, n_nodes: int) -> None:
    prompts, columns = condition.effects.shape
    if columns != n_nodes:
        raise CircuitlapseError(
            "effects need one column per node",
            got=f"{columns} columns for {n_nodes} nodes in {_label(condition)}",
        )
    if prompts < 4:
        raise CircuitlapseError(
            "an overlap needs at least four prompts on each side",
            got=f"{prompts} in {_label(condition)}",
            fix="Use more prompts",
        )


def _label(condition: NodeImportance | EdgeImportance) -> str:
    return f"{condition.model}:{condition.task}"


def _compare(
    unit: str,
    labels: Sequence[str],
    importances: Float[np.ndarray, "conditions components"],
    pairs: Pairs | None = None,
    resamples: Sequence[Float[np.ndarray, "resamples components"]] | None = None,
    sources: Int[np.ndarray, "repeats components"] | None = None,
) -> list[Overlap]:
    rows = []
    pairs = list(combinations(range(len(labels)), 2)) if pairs is None else pairs
    for name, similarity in SIMILARITIES.items():
        prepared = similarity.prepare(importances)
        defined = [bool(np.isfinite(vector).all()) for vector in prepared]
        drawn = [similarity.prepare(means) for means in resamples] if resamples else None
        for i, j in pairs:
            if not (defined[i] and defined[j]):
                at_fault = labels[j] if defined[i] else labels[i]
                reason = f"{at_fault} has no {name}: {similarity.undefined}"
                rows.append(Overlap(unit, labels[i], labels[j], name, not_reported=reason))
                continue
            value = float(similarity.combine(prepared[i], prepared[j]))
            known: dict[str, Any] = {}
            if drawn is not None:
                draws = similarity.combine(drawn[i], drawn[j])
                low, high = spread_interval(similarity, value, draws)
                if low is not None and high is not None:
                    known["interval"] = Estimate(value=value, low=low, high=high)
            if sources is not None:
                known |= _null(value, shuffled(similarity, prepared[i], prepared[j], sources))
            rows.append(Overlap(unit, labels[i], labels[j], name, value, **known))
    return rows


def _null(value: float, null: Float[np.ndarray, " repeats"]) -> dict[str, float]:
    low, high = percentile_ends(null[:, None])
    return {
        "null_mean": float(null.mean()),
        "null_low": float(low[0]),
        "null_high": float(high[0]),
        "p_value": p_value(value, null),
    }

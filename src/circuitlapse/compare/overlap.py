"""Overlap of the importances of any two (model, task) pairs, with a noise ceiling and a null.

An overlap by itself says nothing (Prakash et al. 2024 read "enhancement" from circuits that share
54 of 175 heads). Four figures stand beside each one:

- its *interval*: how far it moves when the prompts are drawn again;
- the *ceiling*: what two disjoint halves of the prompts reach on one and the same model and task,
  taken on the less reliable side. Halves are noisier than the whole, so it is a low ceiling;
- the correlation *corrected for noise* (see :mod:`circuitlapse.compare.noise`), where both sides
  are reliable enough;
- the *null*: the same overlap when head labels are shuffled within each layer, jointly over all
  of a head's slots, and the share of shuffles that reach the value (one-sided, (k + 1)/(n + 1)).

Importances are unnormalised, in logits. Both sides must come from one corruption family.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from circuitlapse.compare.noise import (
    corrected_for_noise,
    half_agreement,
    half_means,
    p_value,
    shuffled,
    spread_interval,
)
from circuitlapse.compare.permutations import EdgeSources, draw_permutations, relabel
from circuitlapse.compare.similarity import SIMILARITIES
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.intervals import bootstrap_indices, bootstrap_means, percentile_ends
from circuitlapse.records.nodes import head_of
from circuitlapse.shapes import Bool, Float, Int

_SPLITS = 100  # random halvings of the prompts behind the ceiling


@dataclass(frozen=True)
class NodeImportance:
    """Per-prompt effects of every node of one model on one task, in logits.

    Attributes:
        model: For example ``base`` or ``tuned``.
        task: Name of the task; pairs of the same task are taken to share their prompts.
        effects: ``[prompts, nodes]``.
    """

    model: str
    task: str
    effects: Float[np.ndarray, "prompts nodes"]


@dataclass(frozen=True)
class EdgeImportance:
    """Edge scores of one model on one task, over all prompts and over two disjoint halves.

    Attributes:
        model: For example ``base`` or ``tuned``.
        task: Name of the task.
        mean: Over all prompts, ``[writers, readers]``.
        halves: Over each half of the prompts, ``[2, writers, readers]``.
    """

    model: str
    task: str
    mean: Float[np.ndarray, "writers readers"]
    halves: Float[np.ndarray, "2 writers readers"]


@dataclass(frozen=True)
class Overlap:
    """One row of the table ``overlap``, without the columns that name the run and corruption.

    ``value_low`` and ``value_high`` are None for edges, of which no per-prompt scores exist: two
    halves show reliability (the ceiling), but are no interval. ``uncorrected`` says why
    ``corrected`` is None where it is.
    """

    unit: str
    left: str
    right: str
    measure: str
    value: float
    value_low: float | None
    value_high: float | None
    ceiling: float | None
    corrected: float | None
    uncorrected: str
    null_mean: float
    null_low: float
    null_high: float
    p_value: float


@dataclass(frozen=True)
class Refusal:
    """An overlap that does not exist, and why."""

    unit: str
    left: str
    right: str
    measure: str
    reason: str


@dataclass(frozen=True)
class Overlaps:
    """What could be compared, and what could not."""

    rows: list[Overlap] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def node_overlaps(
    conditions: Sequence[NodeImportance],
    nodes: Sequence[str],
    *,
    seed: int,
    pairs: Sequence[tuple[int, int]] | None = None,
    permutations: int = 1000,
    repeats: int = 1000,
) -> Overlaps:
    """Overlap of node importances for every two conditions, in the order given.

    Args:
        conditions: The (model, task) pairs, all under one corruption family.
        nodes: Names in the order of the columns, all heads of the graph among them.
        seed: Fixes shuffles, resamples and halves.
        pairs: Which conditions to compare, by their places; all with all by default.
        permutations: Shuffles of head labels in the null.
        repeats: Bootstrap resamples of the prompts. Conditions of one task are resampled with the
            same prompts, those of different tasks independently.

    Raises:
        CircuitlapseError: If shapes disagree or there are fewer than four prompts.
    """
    for condition in conditions:
        _check(condition, len(nodes))
    drawn = _draw(nodes, permutations, seed)
    tasks = sorted({condition.task for condition in conditions})
    resamples, halves = [], []
    for condition in conditions:
        effects = condition.effects.astype(np.float64)
        stream = tasks.index(condition.task)
        indices = bootstrap_indices(len(effects), repeats, [seed, 1, stream])
        resamples.append(bootstrap_means(effects, indices))
        halves.append(half_means(effects, _SPLITS, [seed, 2, stream]))
    return _compare(
        "nodes",
        [_label(condition) for condition in conditions],
        np.stack([condition.effects.mean(axis=0, dtype=np.float64) for condition in conditions]),
        relabel(nodes, drawn),
        halves,
        resamples,
        pairs,
    )


def edge_overlaps(
    conditions: Sequence[EdgeImportance],
    writers: Sequence[str],
    readers: Sequence[str],
    edges: Bool[np.ndarray, "writers readers"],
    *,
    seed: int,
    permutations: int = 200,
) -> Overlaps:
    """Overlap of edge scores for every two conditions, in the order given.

    Args:
        conditions: The (model, task) pairs, all under one corruption family.
        writers: Names of the rows.
        readers: Names of the columns.
        edges: Which writer and reader are joined; nothing else enters.
        seed: Fixes the shuffles.
        permutations: Shuffles of head labels in the null.

    Raises:
        CircuitlapseError: If shapes disagree, or shuffling heads within a layer would move an
            existing edge to a place where there is none.
    """
    shape = (len(writers), len(readers))
    for condition in conditions:
        if edges.shape != shape or condition.mean.shape != shape:
            raise CircuitlapseError(
                "edge scores need one row per writer and one column per reader",
                got=f"{condition.mean.shape} and a mask of {edges.shape} for {shape}",
            )
    drawn = _draw(writers, permutations, seed)
    sources = EdgeSources(edges, relabel(writers, drawn), relabel(readers, drawn))
    return _compare(
        "edges",
        [_label(condition) for condition in conditions],
        np.stack([condition.mean[edges].astype(np.float64) for condition in conditions]),
        sources,
        [condition.halves[:, None, edges].astype(np.float64) for condition in conditions],
        None,
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


def _draw(
    names: Sequence[str], permutations: int, seed: int
) -> Int[np.ndarray, "repeats layers heads"]:
    heads = [place for place in map(head_of, names) if place is not None]
    n_layers = max((place.layer for place in heads), default=-1) + 1
    n_heads = max((place.head for place in heads), default=-1) + 1
    return draw_permutations(n_layers, n_heads, permutations, [seed, 0])


def _compare(
    unit: str,
    labels: Sequence[str],
    importances: Float[np.ndarray, "conditions components"],
    sources: Int[np.ndarray, "repeats components"] | EdgeSources,
    halves: Sequence[Float[np.ndarray, "2 splits components"]],
    resamples: Sequence[Float[np.ndarray, "resamples components"]] | None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Overlaps:
    result = Overlaps()
    pairs = list(combinations(range(len(labels)), 2)) if pairs is None else pairs
    for name, similarity in SIMILARITIES.items():
        prepared = similarity.prepare(importances)
        defined = [bool(np.isfinite(vector).all()) for vector in prepared]
        ceilings = [half_agreement(similarity, half) for half in halves]
        drawn = [similarity.prepare(means) for means in resamples] if resamples else None
        for i, j in pairs:
            if not (defined[i] and defined[j]):
                at_fault = labels[j] if defined[i] else labels[i]
                result.refused.append(
                    Refusal(unit, labels[i], labels[j], name,
                            f"{at_fault} has no {name}: {similarity.undefined}")
                )  # fmt: skip
                continue
            value = float(similarity.combine(prepared[i], prepared[j]))
            low = high = None
            if drawn is not None:
                low, high = spread_interval(
                    similarity, value, similarity.combine(drawn[i], drawn[j])
                )
            null = shuffled(similarity, prepared[i], prepared[j], sources)
            null_low, null_high = percentile_ends(null[:, None])
            sides = [ceiling for ceiling in (ceilings[i], ceilings[j]) if ceiling is not None]
            corrected, uncorrected = None, "not a correlation"
            if similarity.lowest < 0:
                corrected, uncorrected = corrected_for_noise(value, ceilings[i], ceilings[j])
            result.rows.append(
                Overlap(
                    unit, labels[i], labels[j], name, value, low, high,
                    ceiling=min(sides) if len(sides) == 2 else None,
                    corrected=corrected,
                    uncorrected=uncorrected,
                    null_mean=float(null.mean()),
                    null_low=float(null_low[0]),
                    null_high=float(null_high[0]),
                    p_value=p_value(value, null),
                )
            )  # fmt: skip
    return result

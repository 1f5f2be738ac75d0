"""The tables ``nodes``, ``edges`` and ``faithfulness``."""

from collections.abc import Iterator

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.graph import GraphShape
from circuitlapse.records.arrays import family_mean
from circuitlapse.records.columns import (
    COUNTERFACTUAL,
    NODE,
    PLACE,
    STEP,
    TASK,
    TRAINING_RUN,
    Row,
    integer,
    interval,
    real,
    text,
)
from circuitlapse.stats.intervals import Intervals, mean_intervals, near_zero

EDGES_KEPT = 200  # per checkpoint, task and counterfactual; all of them stay in the scores


def _counterfactuals(
    variants_of: dict[str, list[str]], families: tuple[str, ...]
) -> dict[str, list[str]]:
    """A task's families, and each variant of those that average several, with their variants."""
    found = {family: variants_of[family] for family in families}
    variants = [v for group in found.values() if len(group) > 1 for v in group]
    return {**found, **{variant: [variant] for variant in variants}}


def node_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``nodes``."""
    rows, graph = [], scores.graph
    for names, arrays in scores.checkpoints():
        found = _counterfactuals(
            scores.families(names["task"]), scores.experiment.measure.counterfactuals
        )
        for counterfactual, variants in found.items():
            exact = all(f"effects.{variant}" in arrays for variant in variants)
            effects = mean_intervals(family_mean(arrays, "effects", variants)) if exact else None
            # What a head writes, over all that read it: the node's attribution.
            totals = family_mean(arrays, "edges", variants).sum(axis=1)[1:]
            rows += list(
                _node_rows(graph, {**names, "counterfactual": counterfactual}, effects, totals)
            )
    return rows


def _node_rows(
    graph: GraphShape, names: Row, effects: Intervals | None, attribution: np.ndarray
) -> Iterator[Row]:
    for index, (node, place) in enumerate(zip(graph.nodes, graph.places, strict=True)):
        yield {
            **names,
            "node": node,
            "kind": "mlp" if place.head < 0 else "head",
            "layer": place.layer,
            "head": place.head,
            "effect": effects[index] if effects else None,
            "attribution": float(attribution[index]),
        }


def edge_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``edges``: the largest of each checkpoint."""
    rows, graph = [], scores.graph
    for names, arrays in scores.checkpoints():
        for family in scores.experiment.measure.counterfactuals:
            mean = family_mean(arrays, "edges", scores.families(names["task"])[family])
            order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:EDGES_KEPT]
            for writer, reader in zip(*np.unravel_index(order, mean.shape), strict=True):
                if mean[writer, reader] != 0:
                    rows.append(
                        {
                            **names,
                            "counterfactual": family,
                            "writer": graph.writers[writer],
                            "reader": graph.readers[reader],
                            "score": float(mean[writer, reader]),
                        }
                    )
    return rows


def faithfulness_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``faithfulness``."""
    rows = []
    for names, arrays in scores.checkpoints():
        for family in scores.experiment.measure.counterfactuals:
            if f"faithfulness.{family}" not in arrays:
                continue
            clean = arrays[f"faithfulness_clean.{family}"].astype(np.float64)
            corrupt = arrays[f"faithfulness_corrupt.{family}"].astype(np.float64)
            drop = float((clean - corrupt).mean())
            why = near_zero(clean - corrupt)
            metric = arrays[f"faithfulness.{family}"].mean(axis=1, dtype=np.float64)
            for index, fraction in enumerate(scores.experiment.measure.circuit_sizes):
                above_empty = float(metric[index] - corrupt.mean())
                rows.append(
                    {
                        **names,
                        "counterfactual": family,
                        "fraction": fraction,
                        "n_edges": int(arrays[f"n_edges.{family}"][index]),
                        "metric": float(metric[index]),
                        "clean": float(clean.mean()),
                        "corrupt": float(corrupt.mean()),
                        "faithfulness": None if why else above_empty / drop,
                        "not_reported": why or "",
                    }
                )
    return rows


_WHERE = (*TRAINING_RUN, STEP, TASK, COUNTERFACTUAL)
NODES = Analysis(
    "nodes",
    "One row per step, task, counterfactual and node.",
    (
        *_WHERE,
        NODE,
        text("kind", "`head` or `mlp`"),
        *PLACE,
        interval("effect", "patching effect; null at steps that are not measured in full"),
        real("attribution", "gradient estimate of everything that the node writes, in logits"),
    ),
    ("scores",),
    node_rows,
    "Circuit structure",
    shown_in="map",
)
EDGES = Analysis(
    "edges",
    f"The {EDGES_KEPT} strongest edges per step, task and counterfactual. All are in `scores/`.",
    (
        *_WHERE,
        text("writer", "source node"),
        text("reader", "destination"),
        real("score", "attribution score, in logits"),
    ),
    ("scores",),
    edge_rows,
    "Circuit structure",
    shown_in="map",
)
FAITHFULNESS = Analysis(
    "faithfulness",
    "One row per step that is measured in full, task, counterfactual and circuit size.",
    (
        *_WHERE,
        real("fraction", "the size as a share of all edges"),
        integer("n_edges", "edges left after pruning"),
        real("metric", "mean metric of the circuit, in logits"),
        real("clean", "mean metric of the whole model"),
        real("corrupt", "mean metric of the empty circuit"),
        real("faithfulness", "(metric - corrupt) / (clean - corrupt)"),
        text("not_reported", "why there is no value"),
    ),
    ("scores",),
    faithfulness_rows,
    "Circuit structure",
    shown_in="faithfulness",
)

"""The tables ``readings`` and ``patching``."""

from collections.abc import Iterator, Mapping
from typing import get_args

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.config.experiment import file_label
from circuitlapse.graph import GraphShape, Site, StreamSite
from circuitlapse.records import layout
from circuitlapse.records.arrays import load_about, load_arrays
from circuitlapse.records.columns import (
    COUNTERFACTUAL,
    PLACE,
    STEP,
    TASK,
    TRAINING_RUN,
    Row,
    interval,
    text,
)
from circuitlapse.stats.intervals import mean_intervals

ON_REPEATS = ("previous_token", "duplicate_token", "induction")


HALVES = ("even", "odd")


def reading_rows(scores: RunData) -> list[Row]:
    """Every reading of every checkpoint, one row for each component."""
    rows: list[Row] = []
    tasks = {file_label(task): task for task in scores.tasks}
    for training_run in scores.experiment.training_runs():
        for step in scores.experiment.steps():
            content = scores.store.read(layout.readings(training_run.name, step))
            graph, names = (
                GraphShape(**load_about(content)),
                {**scores.names(training_run), "step": step},
            )
            for name, values in sorted(load_arrays(content).items()):
                rows += _rows(graph, names, name, values, tasks)
    return rows


def _rows(
    graph: GraphShape, names: Row, name: str, values: np.ndarray, tasks: Mapping[str, str]
) -> Iterator[Row]:
    task, reading, positions, *_ = (
        [None, name, ""] if name in ON_REPEATS else [*name.split("."), ""]
    )
    per_prompt = reading in ("logit_lens", "direct", "attention")
    if reading == "logit_lens":
        components = [(f"resid{layer}", layer, None) for layer in range(len(values))]
    elif reading == "direct":
        nodes = list(_components(graph))
        components = [("input", None, None), *nodes, ("constant", None, None)]
    else:
        components = [node for node in _components(graph) if node[2] >= 0]
    table = values.reshape(len(components), -1)
    intervals = mean_intervals(table.T) if per_prompt else None
    for index, (component, layer, head) in enumerate(components):
        yield {
            **names,
            "task": tasks.get(task),
            "reading": reading,
            "positions": positions,
            "component": component,
            "layer": layer,
            "head": head,
            "value": intervals[index] if intervals else float(table[index, 0]),
        }


def _components(graph: GraphShape) -> Iterator[tuple[str, int, int]]:
    """Name, layer and number of every node."""
    for node, place in zip(graph.nodes, graph.places, strict=True):
        yield node, place.layer, place.head


SITES: tuple[Site, ...] = (*get_args(StreamSite), "head_v", "head_pattern")


def patching_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``patching``."""
    rows: list[Row] = []
    family = scores.experiment.measure.counterfactuals[0]
    for training_run in scores.experiment.training_runs():
        for step in filter(scores.experiment.is_end, scores.experiment.steps()):
            content = scores.store.read(layout.patching(training_run.name, step))
            positions = load_about(content)["positions"]
            arrays = load_arrays(content)
            for task in scores.tasks:
                n = arrays[f"{task}.head_v"].shape[-1]
                effects = scores.family(training_run.name, step, task, "effects", family)[:n]
                by_layer = effects.T.reshape(scores.graph.n_layers, -1, n)
                arrays[f"{task}.head_out"] = by_layer[:, :-1]  # the last column is the MLP's
            for name, values in sorted(arrays.items()):
                task, _, site = name.rpartition(".")
                at = positions[task] if site in get_args(StreamSite) else None
                spreads = mean_intervals(values.reshape(-1, values.shape[-1]).T)
                for place in range(len(spreads)):
                    layer, column = divmod(place, values.shape[1])
                    rows.append(
                        {
                            **scores.names(training_run),
                            "step": step,
                            "task": task,
                            "counterfactual": family,
                            "site": site,
                            "layer": layer,
                            "head": -1 if at else column,
                            "position": at[column] if at else "",
                            "effect": spreads[place],
                        }
                    )
    return rows


READINGS = Analysis(
    "readings",
    "What each checkpoint says without intervention: one row per step, task, reading, positions "
    "and component. [Read activations](../how-to/read-activations.md) defines the readings.",
    (
        *TRAINING_RUN,
        STEP,
        text("task", "the task; null on repeated random tokens"),
        text(
            "reading",
            "`logit_lens`, `direct` (in logits), `attention`, `copying`, `negative_copying`, "
            "`matching`; on repeated tokens `previous_token`, `duplicate_token`, `induction`",
        ),
        text("positions", "of an attention pattern: from and to (`END>IO`)"),
        text("component", "a node, `input`, `constant`, or `resid0` and on for the lens"),
        *PLACE,
        interval("value", "the reading; no interval if it is no mean over prompts"),
    ),
    ("scores",),
    reading_rows,
    "Function",
    shown_in="lens",
)
PATCHING = Analysis(
    "patching",
    "Activation patching by site, over a dozen prompts, in the base and at the last checkpoint.",
    (
        *TRAINING_RUN,
        STEP,
        TASK,
        COUNTERFACTUAL,
        text("site", "`resid_pre`, `attn_out`, `mlp_out`, `head_out`, `head_v`, `head_pattern`"),
        *PLACE,
        text("position", "the named position; empty for heads, which are patched everywhere"),
        interval("effect", "in logits"),
    ),
    ("scores",),
    patching_rows,
    "Circuit structure",
    shown_in="patching",
)

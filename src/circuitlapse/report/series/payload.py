"""The numbers of the drawings, as compact columns.

All seeds share one axis of steps. Keys of series join the seed's index, the task and other values
by ``/``. Numbers have four significant digits.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.records.calibration import released
from circuitlapse.report.series.checkpoint_details import checkpoint_details, over_time, patches
from circuitlapse.report.series.counts import count_rows
from circuitlapse.report.series.drawing import drawings
from circuitlapse.report.series.grid import Grid, grid_of, numbers, short, triple
from circuitlapse.report.series.labels import (
    CATEGORIES,
    MEASURES,
    SPLITS,
    node_label,
    side_label,
    task_title,
)
from circuitlapse.report.series.map_layout import circuit, layout_of
from circuitlapse.report.series.marks import series
from circuitlapse.report.series.recipes import recipes
from circuitlapse.report.series.run_records import RunRecords
from circuitlapse.report.series.sections import evidence

CHANGE_COLUMNS = ("base_old", "base_new", "tuned_old", "tuned_new", "placebo_old")
_METRICS = ("candidate_accuracy", "accuracy", "logit_diff")


def payload(records: RunRecords) -> dict[str, Any]:
    """Collect everything that the page's script draws."""
    tables = records.tables
    grid = grid_of(tables["behaviour"], tables["nodes"])
    found = map_data(records)
    nodes = [node["id"] for node in found["nodes"]]
    found |= {
        "names": {
            "head_changes": CATEGORIES,
            "measures": MEASURES,
            "splits": SPLITS,
        },
        **checkpoint_details(records, grid, nodes),
        **_faithfulness(tables["faithfulness"], grid),
        "invariance": {
            key: grid.over_steps(part, "mean_abs_effect")
            for key, part in grid.series(tables["invariance"], "task", "check")
        },
        **_overlaps(tables["overlap"], grid, records),
        **over_time(records, grid, nodes),
        "recipes": recipes(records),
        "evidence": evidence(tables, grid),
        "calibration": count_rows(released()),
    }
    drawn = {"drawings": drawings(found, layout_of(records)), "frames": series(found)}
    return {**found, "map": drawn}


def map_data(records: RunRecords) -> dict[str, Any]:
    """Collect what the circuit map and the learning curves show, for the page and for pictures.

    Effects are in logits, laid out [steps, nodes].
    """
    tables, tasks = records.tables, records.experiment.tasks
    grid = grid_of(tables["behaviour"], tables["nodes"])
    named = [
        {"name": name, "title": task_title(name), "role": role}
        for name, role in ((tasks.old, "old"), (tasks.new, "new"))
    ]
    nodes = _nodes(tables["nodes"], grid)
    return {
        "tasks": named,
        "runs": [{"base_seed": base, "finetune_seed": tune} for base, tune in grid.runs],
        "steps": grid.steps,
        "families": families(records),
        "behaviour": {
            key: {name: grid.over_steps(part, name) for name in _METRICS}
            for key, part in grid.series(tables["behaviour"], "task", "split")
        },
        **nodes,
        "largest": short(_largest(nodes["nodes"], nodes["effects"], records)),
        **circuit(records, grid, named),
        **patches(records, grid, [node["id"] for node in nodes["nodes"]]),
        "head_changes": _head_changes(tables["head_changes"], grid),
    }


def families(records: RunRecords) -> dict[str, list[str]]:
    """List the counterfactual types that both tasks have, then the others.

    They are in the experiment's order; the first is the page's default.
    """
    by_task: dict[str, list[str]] = {}
    for task, counterfactual in (
        records.tables["nodes"].select("task", "counterfactual").unique().rows()
    ):
        by_task.setdefault(task, []).append(counterfactual)
    tasks = records.experiment.tasks
    old, new = set(by_task.get(tasks.old, [])), set(by_task.get(tasks.new, []))
    order = {name: place for place, name in enumerate(records.experiment.measure.counterfactuals)}

    def ordered(names: Iterable[str]) -> list[str]:
        return sorted(names, key=lambda name: (order.get(name, len(order)), name))

    return {"shared": ordered(old & new), "single": ordered(old ^ new)}


def _nodes(frame: pl.DataFrame, grid: Grid) -> dict[str, Any]:
    """The nodes, and ``seed/task/counterfactual`` → [effect, low, high, attribution]."""
    described = frame.select("node", "kind", "layer", "head").unique().sort("layer", "kind", "head")
    names = described["node"].to_list()
    return {
        "nodes": [
            {"id": node, "label": node_label(node), "head": head, "layer": layer}
            for node, layer, head in described.select("node", "layer", "head").iter_rows()
        ],
        "effects": {
            key: [
                *grid.spread(part, "node", names, "effect"),
                numbers(grid.values(part, "node", names, "attribution")),
            ]
            for key, part in grid.series(frame, "task", "counterfactual")
        },
    }


def _largest(nodes: list[dict[str, Any]], series: dict[str, list], records: RunRecords) -> float:
    """End of the colour scale: the largest effect of any head in the run, or difference of tasks.

    An early MLP's effect can be many times larger, so MLPs do not count.
    """
    heads = [place for place, node in enumerate(nodes) if node["head"] >= 0]
    tasks = records.experiment.tasks
    values = {
        key: np.array(columns[0], dtype=float).reshape(-1, len(nodes))[:, heads]
        for key, columns in series.items()
    }
    sizes = [0.0]
    for key, effects in values.items():
        run, task, family = key.split("/", 2)
        sizes.append(np.nanmax(np.abs(effects), initial=0))
        other = values.get(f"{run}/{tasks.new}/{family}")
        if task == tasks.old and other is not None:
            sizes.append(np.nanmax(np.abs(other - effects), initial=0))
    return max(sizes) or 1.0


def _faithfulness(frame: pl.DataFrame, grid: Grid) -> dict[str, Any]:
    """``seed/task/counterfactual`` → the curve, and why it is not reported, at each step."""
    fractions = frame["fraction"].unique().sort().to_list()
    curves = {}
    for key, part in grid.series(frame, "task", "counterfactual"):
        edges = dict(part.select("fraction", "n_edges").iter_rows())
        stated = part.filter(pl.col("not_reported") != "")
        reasons = dict(stated.select("step", "not_reported").iter_rows())
        values = grid.values(part, "fraction", fractions, "faithfulness")
        curves[key] = {
            "edges": [edges.get(fraction) for fraction in fractions],
            "values": [numbers(curve) for curve in values],
            "not_reported": [reasons.get(step) for step in grid.steps],
        }
    return {"circuit_sizes": [short(size) for size in fractions], "faithfulness_curves": curves}


def _overlaps(
    frame: pl.DataFrame, grid: Grid, records: RunRecords
) -> dict[str, list[dict[str, Any]]]:
    """Both models on both tasks, and the baselines: placebos and an unrelated task."""
    main = pl.col("compared_with") == ""
    return {
        "overlap": list(_overlap(frame.filter(main), grid, records)),
        "comparisons": list(_overlap(frame.filter(~main), grid, records)),
    }


def _overlap(frame: pl.DataFrame, grid: Grid, records: RunRecords) -> Iterator[dict[str, Any]]:
    tasks = records.experiment.tasks
    for run, row in grid.rows(frame):
        yield {
            **({"compared_with": row["compared_with"]} if row["compared_with"] else {}),
            "run": run,
            "step": row["step"],
            "family": row["counterfactual"],
            "unit": row["unit"],
            "left": side_label(row["left"], tasks.old, tasks.new),
            "right": side_label(row["right"], tasks.old, tasks.new),
            "measure": row["measure"],
            "value": triple(row, "value"),
            "null": [short(row[f"null_{part}"]) for part in ("mean", "low", "high")],
            "p": short(row["p_value"]),
            **({"not_reported": row["not_reported"]} if row["not_reported"] else {}),
        }


def _head_changes(frame: pl.DataFrame, grid: Grid) -> dict[str, list[dict[str, Any]]]:
    """``seed/counterfactual`` → one row per head, at the last step."""
    last = frame.filter(pl.col("step") == pl.col("step").max())
    return {
        key: [
            {
                "node": row["node"],
                "category": row["category"],
                **{name: triple(row, name) for name in CHANGE_COLUMNS},
            }
            for row in part.iter_rows(named=True)
        ]
        for key, part in grid.series(last, "counterfactual")
    }

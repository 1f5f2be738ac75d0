"""The numbers of the drawings, as compact columns.

All seeds share one axis of steps, with null where a seed has no such step. Keys of series join seed
index, task and the rest by ``/``. Four significant digits are kept.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.records.calibration import released
from circuitlapse.report.series.checkpoint_details import checkpoint_details, over_time
from circuitlapse.report.series.counts import count_rows
from circuitlapse.report.series.drawing import drawings
from circuitlapse.report.series.grid import grid_of, short
from circuitlapse.report.series.labels import (
    CATEGORIES,
    GROUPS,
    MEASURES,
    QUANTITIES,
    SPLITS,
    node_label,
    side_label,
    task_title,
)
from circuitlapse.report.series.map_circuit import circuit, layout_of
from circuitlapse.report.series.marks import series
from circuitlapse.report.series.recipes import recipes
from circuitlapse.report.series.run_records import RunRecords
from circuitlapse.report.series.sections import evidence

_METRICS = ("candidate_accuracy", "accuracy", "logit_diff")


def payload(records: RunRecords) -> dict[str, Any]:
    """Collect what the page's script draws.

    Effects are in logits, laid out [steps, nodes] in one list per task and counterfactual.
    """
    tables = records.tables
    grid = grid_of(tables["behaviour"], tables["nodes"])
    runs, steps = grid.runs, grid.steps
    tasks = records.experiment.tasks
    nodes = _nodes(tables["nodes"], runs, steps)
    named = [
        {"name": name, "title": task_title(name), "role": role}
        for name, role in ((tasks.old, "old"), (tasks.new, "new"))
    ]
    found = {
        "tasks": named,
        "runs": [{"base_seed": base, "finetune_seed": tune} for base, tune in runs],
        "steps": steps,
        "families": families(records),
        "names": {
            "head_changes": CATEGORIES,
            "groups": GROUPS,
            "quantities": QUANTITIES,
            "measures": MEASURES,
            "splits": SPLITS,
        },
        "behaviour": _behaviour(tables["behaviour"], runs, steps),
        **nodes,
        "largest": short(_largest(nodes["nodes"], nodes["effects"], records)),
        **circuit(records, grid, named),
        **checkpoint_details(records, grid, [node["id"] for node in nodes["nodes"]]),
        **_faithfulness(tables["faithfulness"], runs, steps),
        "invariance": _invariance(tables["invariance"], runs, steps),
        **_overlaps(tables["overlap"], runs, records),
        "head_changes": _head_changes(tables["head_changes"], runs),
        "grafts": list(_grafts(tables["grafts"], runs)),
        **over_time(records, grid, [node["id"] for node in nodes["nodes"]]),
        "recipes": recipes(records),
        "evidence": evidence(tables, grid),
        "shares": [
            {"cause": cause, "share": [share.value, share.low, share.high]}
            for cause, share in records.verdict.shares.items()
            if share
        ],
        "calibration": count_rows(released()),
    }
    drawn = {"drawings": drawings(found, layout_of(records)), "frames": series(found)}
    return {**found, "map": drawn}


def families(records: RunRecords) -> dict[str, list[str]]:
    """List the counterfactual families that both tasks have, then the others.

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


def _rows(frame: pl.DataFrame, runs: list[tuple[int, int]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a seed that has behaviour, with that seed's index."""
    index = {seeds: place for place, seeds in enumerate(runs)}
    for row in frame.iter_rows(named=True):
        run = index.get((row["base_seed"], row["finetune_seed"]))
        if run is not None:
            yield run, row


def _triple(row: dict[str, Any], name: str) -> list[float | None]:
    return [short(row[name]), short(row[f"{name}_low"]), short(row[f"{name}_high"])]


def _fill(columns: list[list[float | None]], place: int, values: list[float | None]) -> None:
    for column, value in zip(columns, values, strict=True):
        column[place] = value


def _empty(columns: int, length: int) -> list[list[float | None]]:
    return [[None] * length for _ in range(columns)]


def _behaviour(frame: pl.DataFrame, runs: list[tuple[int, int]], steps: list[int]) -> dict:
    """``seed/task/split`` → metric → [value, low, high], each over the steps."""
    at = {step: place for place, step in enumerate(steps)}
    series: dict[str, dict[str, list]] = {}
    for run, row in _rows(frame, runs):
        key = f"{run}/{row['task']}/{row['split']}"
        metrics = series.setdefault(key, {name: _empty(3, len(steps)) for name in _METRICS})
        for name in _METRICS:
            _fill(metrics[name], at[row["step"]], _triple(row, name))
    return series


def _nodes(frame: pl.DataFrame, runs: list[tuple[int, int]], steps: list[int]) -> dict[str, Any]:
    """The nodes, and ``seed/task/counterfactual`` → [effect, low, high, attribution]."""
    described = frame.select("node", "kind", "layer", "head").unique().sort("layer", "kind", "head")
    nodes = [
        {
            "id": row["node"],
            "label": node_label(row["node"]),
            "head": row["head"],
            "layer": row["layer"],
        }
        for row in described.iter_rows(named=True)
    ]
    column = {node["id"]: place for place, node in enumerate(nodes)}
    at = {step: place * len(nodes) for place, step in enumerate(steps)}
    series: dict[str, list] = {}
    for run, row in _rows(frame, runs):
        key = f"{run}/{row['task']}/{row['counterfactual']}"
        columns = series.setdefault(key, _empty(4, len(steps) * len(nodes)))
        values = [*_triple(row, "effect"), short(row["attribution"])]
        _fill(columns, at[row["step"]] + column[row["node"]], values)
    return {"nodes": nodes, "effects": series}


def _largest(nodes: list[dict[str, Any]], series: dict[str, list], records: RunRecords) -> float:
    """End of the colour scale: the largest effect of any head in the run, or difference of tasks.

    An early MLP's effect can be many times larger, so MLPs do not count.
    """
    heads = [place for place, node in enumerate(nodes) if node["head"] >= 0]
    tasks = records.experiment.tasks
    sizes = [0.0]
    for key, columns in series.items():
        run, task, family = key.split("/", 2)
        values = np.array(columns[0], dtype=float).reshape(-1, len(nodes))[:, heads]
        sizes.append(np.nanmax(np.abs(values), initial=0))
        other = series.get(f"{run}/{tasks.new}/{family}")
        if task == tasks.old and other:
            against = np.array(other[0], dtype=float).reshape(-1, len(nodes))[:, heads]
            sizes.append(np.nanmax(np.abs(against - values), initial=0))
    return max(sizes) or 1.0


def _faithfulness(frame: pl.DataFrame, runs: list[tuple[int, int]], steps: list[int]) -> dict:
    """``seed/task/counterfactual`` → the curve, and why it is not reported, at each step."""
    at = {step: place for place, step in enumerate(steps)}
    fractions = frame["fraction"].unique().sort().to_list()
    place = {fraction: index for index, fraction in enumerate(fractions)}
    series: dict[str, dict[str, list]] = {}
    for run, row in _rows(frame.filter(pl.col("step").is_in(steps)), runs):
        curve = series.setdefault(
            f"{run}/{row['task']}/{row['counterfactual']}",
            {
                "edges": [None] * len(fractions),
                "values": _empty(len(steps), len(fractions)),
                "not_reported": [None] * len(steps),
            },
        )
        step = at[row["step"]]
        curve["edges"][place[row["fraction"]]] = row["n_edges"]
        curve["values"][step][place[row["fraction"]]] = short(row["faithfulness"])
        curve["not_reported"][step] = row["not_reported"] or curve["not_reported"][step]
    return {
        "circuit_sizes": [short(fraction) for fraction in fractions],
        "faithfulness_curves": series,
    }


def _invariance(frame: pl.DataFrame, runs: list[tuple[int, int]], steps: list[int]) -> dict:
    """``seed/task/check`` → [mean_abs_effect, low, high], each over the steps."""
    at = {step: place for place, step in enumerate(steps)}
    series: dict[str, list] = {}
    for run, row in _rows(frame.filter(pl.col("step").is_in(steps)), runs):
        columns = series.setdefault(f"{run}/{row['task']}/{row['check']}", _empty(3, len(steps)))
        _fill(columns, at[row["step"]], _triple(row, "mean_abs_effect"))
    return series


def _overlaps(
    frame: pl.DataFrame, runs: list[tuple[int, int]], records: RunRecords
) -> dict[str, list[dict[str, Any]]]:
    """Both models on both tasks, compared with other changes of the weights."""
    main = pl.col("compared_with") == ""
    return {
        "overlap": list(_overlap(frame.filter(main), runs, records)),
        "comparisons": list(_overlap(frame.filter(~main), runs, records)),
    }


def _overlap(
    frame: pl.DataFrame, runs: list[tuple[int, int]], records: RunRecords
) -> Iterator[dict[str, Any]]:
    tasks = records.experiment.tasks
    for run, row in _rows(frame, runs):
        yield {
            **({"compared_with": row["compared_with"]} if row["compared_with"] else {}),
            "run": run,
            "step": row["step"],
            "family": row["counterfactual"],
            "unit": row["unit"],
            "left": side_label(row["left"], tasks.old, tasks.new),
            "right": side_label(row["right"], tasks.old, tasks.new),
            "measure": row["measure"],
            "value": _triple(row, "value"),
            "ceiling": short(row["ceiling"]),
            "null": [short(row[f"null_{part}"]) for part in ("mean", "low", "high")],
            "p": short(row["p_value"]),
            **({"not_reported": row["not_reported"]} if row["not_reported"] else {}),
        }


def _head_changes(
    frame: pl.DataFrame, runs: list[tuple[int, int]]
) -> dict[str, list[dict[str, Any]]]:
    """``seed/counterfactual`` → one row per head."""
    series: dict[str, list[dict[str, Any]]] = {}
    for run, row in _rows(frame.filter(pl.col("step") == pl.col("step").max()), runs):
        heads = series.setdefault(f"{run}/{row['counterfactual']}", [])
        effects = {name: _triple(row, name) for name in CHANGE_COLUMNS}
        heads.append({"node": row["node"], "category": row["category"], **effects})
    return series


def of_the_base(frame: pl.DataFrame) -> pl.DataFrame:
    """The grafts of whole groups into the base at the last step."""
    whole = (pl.col("origin") == "base") & (pl.col("part") == "whole")
    return frame.filter(whole & (pl.col("step") == pl.col("step").max()))


def _grafts(frame: pl.DataFrame, runs: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for run, row in _rows(frame, runs):
        null = [short(row.get(name)) for name in ("null_mean", "null_min", "null_max", "p_value")]
        yield {
            "run": run,
            "step": row["step"],
            "origin": row.get("origin", "base"),
            "group": row["group"],
            "part": row.get("part", "whole"),
            "quantity": row["quantity"],
            "parameters": row["n_parameters"],
            "heads": row["heads"],
            "improvement": _triple(row, "improvement"),
            "share": None if row["share"] is None else _triple(row, "share"),
            "null": null,
        }


CHANGE_COLUMNS = ("base_old", "base_new", "tuned_old", "tuned_new", "placebo_old")

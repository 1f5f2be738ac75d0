"""The numbers of the page's tables, also readable without JavaScript."""

import re
from typing import Any

import polars as pl

from circuitlapse.report.series.grid import interval_at, number
from circuitlapse.report.series.labels import (
    CATEGORIES,
    MEASURES,
    SPLITS,
    node_label,
    side_label,
    task_title,
)
from circuitlapse.report.series.payload import CHANGE_COLUMNS
from circuitlapse.report.series.run_records import RunRecords


def _held_out(split: str) -> str:
    """Return what a split holds out, for a column headed “held out”."""
    return SPLITS.get(split, split).removeprefix("held-out ")


def behaviour_rows(records: RunRecords) -> list[dict[str, Any]]:
    """Base and last checkpoint, for each seed, task and split."""
    frame = records.tables["behaviour"]
    tasks = records.experiment.tasks
    rows = []
    keys = ["base_seed", "finetune_seed", "task", "split"]
    for (base_seed, tune_seed, task, split), part in frame.group_by(keys, maintain_order=True):
        part = part.sort("step")
        ends = (part.row(0, named=True), part.row(-1, named=True))
        rows.append(
            {
                "seeds": f"{base_seed}.{tune_seed}",
                "task": task_title(str(task)),
                "role": {tasks.old: "old", tasks.new: "new"}.get(str(task), ""),
                "split": _held_out(str(split)),
                "n": ends[0]["n"],
                "last": ends[1]["step"],
                "cells": [
                    interval_at(end, name)
                    for name in ("candidate_accuracy", "accuracy", "logit_diff")
                    for end in ends
                ],
            }
        )
    return rows


def overlap_rows(records: RunRecords, chosen: pl.Expr) -> list[list[Any]]:
    """Every overlap of one seed and counterfactual at the last step that has any."""
    frame = records.tables["overlap"].filter(chosen, pl.col("compared_with") == "")
    tasks = records.experiment.tasks
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    return [
        [
            row["unit"],
            MEASURES.get(row["measure"], row["measure"]),
            *(
                side_label(row[side], tasks.old, tasks.new).replace(":", ", ")
                for side in ("left", "right")
            ),
            row["not_reported"] or interval_at(row, "value"),
            interval_at(row | {"null": row["null_mean"]}, "null"),
            number(row["p_value"], 3),
        ]
        for row in frame.sort("unit", "measure", maintain_order=True).iter_rows(named=True)
    ]


def change_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """One row per head, by effect, used heads first."""
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    rows = sorted(
        frame.iter_rows(named=True),
        key=lambda row: (
            row["category"] == "unused",
            -max(abs(row[name] or 0) for name in CHANGE_COLUMNS[:4]),
        ),
    )
    return [
        {
            "label": node_label(row["node"]),
            "category": row["category"],
            "sign": CATEGORIES.get(row["category"], (row["category"][:1], ""))[0],
            "cells": [interval_at(row, name) for name in CHANGE_COLUMNS],
        }
        for row in rows
    ]


def faithfulness_rows(frame: pl.DataFrame) -> list[list[Any]]:
    """The curve of both tasks at the last step, or why there is none."""
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    return [
        [
            task_title(row["task"]),
            f"{row['n_edges']:,}",
            f"{100 * row['fraction']:.3g}\u202f%",
            number(row["metric"]),
            number(row["clean"]),
            number(row["corrupt"]),
            number(row["faithfulness"]) if row["faithfulness"] is not None else row["not_reported"],
        ]
        for row in frame.sort("task", "fraction").iter_rows(named=True)
    ]


def invariance_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Each invariance check at the base and at the last step, for every seed."""
    keys = ["base_seed", "finetune_seed", "task", "check"]
    rows = []
    for (base_seed, tune_seed, task, check), part in frame.group_by(keys, maintain_order=True):
        part = part.sort("step")
        ends = (part.row(0, named=True), part.row(-1, named=True))
        rows.append(
            {
                "task": task_title(str(task)),
                "check": str(check).replace("_", " "),
                "seeds": f"{base_seed}.{tune_seed}",
                "n": ends[0]["n"],
                "cells": [interval_at(end, "mean_abs_effect") for end in ends],
            }
        )
    return rows


def placebo_rows(records: RunRecords) -> list[dict[str, Any]]:
    """Each placebo compared with the same seed’s base and last checkpoint, by task and split."""
    keys = ("base_seed", "finetune_seed", "task", "split")
    base: dict[tuple, dict[str, Any]] = {}
    tuned: dict[tuple, dict[str, Any]] = {}
    for row in records.tables["behaviour"].sort("step").iter_rows(named=True):
        key = tuple(row[name] for name in keys)
        base.setdefault(key, row)
        tuned[key] = row
    rows = []
    for row in records.tables["placebo"].iter_rows(named=True):
        key = tuple(row[name] for name in keys)
        compared = (base.get(key), row, tuned.get(key))
        rows.append(
            {
                "placebo": re.sub(r"[-_]", " ", row["placebo"].removeprefix("placebo-")),
                "seeds": f"{row['base_seed']}.{row['finetune_seed']}",
                "task": task_title(row["task"]),
                "split": _held_out(row["split"]),
                "cells": [
                    interval_at(each, name) if each else "\u2013"
                    for name in ("candidate_accuracy", "logit_diff")
                    for each in compared
                ],
            }
        )
    return rows

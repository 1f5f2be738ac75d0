"""Training curves, diagnostics and labels of a grid's recipes."""

from typing import Any

import polars as pl

from circuitlapse.records.layout import report_path
from circuitlapse.report.series.grid import number, short
from circuitlapse.report.series.labels import task_title
from circuitlapse.report.series.run_records import RunRecords


def recipes(records: RunRecords) -> list[dict[str, Any]]:
    """Describe each recipe of a grid in the experiment's order; empty without a grid.

    ``curves`` has points ``[step, candidate accuracy, low, high]`` on held-out names.
    """
    behaviour, training = records.recipes["behaviour"], records.recipes["training"]
    known = list(records.experiment.finetune.recipes())
    if len(known) < 2:
        return []
    return [
        {
            "name": name,
            "here": name == records.recipe,
            "report": report_path(name).rpartition("/")[2],
            "label": records.labels.get(name),
            "curves": _curves(behaviour.filter(pl.col("recipe") == name), records),
            "flags": _flags(training.filter(pl.col("recipe") == name)),
        }
        for name in known
    ]


def _curves(frame: pl.DataFrame, records: RunRecords) -> list[dict[str, Any]]:
    tasks = records.experiment.tasks
    roles = {tasks.old: "old", tasks.new: "new"}
    frame = frame.filter(pl.col("split") == "test", pl.col("task").is_in(list(roles)))
    ends = ("step", "candidate_accuracy", "candidate_accuracy_low", "candidate_accuracy_high")
    return [
        {
            "role": roles[str(task)],
            "seed": seed,
            "points": [
                [step, *(short(value) for value in values)]
                for step, *values in part.sort("step")[ends].rows()
            ],
        }
        for (task, seed), part in frame.group_by("task", "finetune_seed", maintain_order=True)
    ]


def _flags(frame: pl.DataFrame) -> list[dict[str, Any]]:
    found = (
        frame.select("step", flag=pl.col("flags").str.split(","))
        .explode("flag")
        .filter(pl.col("flag") != "")
        .group_by("flag", maintain_order=True)
        .agg(pl.col("step").unique().sort())
    )
    return [{"name": flag.replace("_", " "), "steps": steps} for flag, steps in found.iter_rows()]


def recipe_rows(records: RunRecords) -> list[dict[str, str]]:
    """Describe base and last checkpoint of each seed, for readers without JavaScript."""
    rows = []
    for recipe in recipes(records):
        for curve in recipe["curves"]:
            first, last = curve["points"][0], curve["points"][-1]
            rows.append(
                {
                    "recipe": recipe["name"],
                    "label": (recipe["label"] or "").replace("_", " "),
                    "seed": str(curve["seed"]),
                    "task": task_title(getattr(records.experiment.tasks, curve["role"])),
                    "base": _interval(first),
                    "last": _interval(last),
                    "flags": "; ".join(
                        f"{flag['name']} from step {flag['steps'][0]}" for flag in recipe["flags"]
                    ),
                }
            )
    return rows


def _interval(point: list[Any]) -> str:
    return "{} [{}, {}]".format(*(number(value) for value in point[1:]))

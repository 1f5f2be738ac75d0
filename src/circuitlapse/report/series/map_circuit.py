"""The circuit map's layout, colours, and edges of every checkpoint."""

from typing import Any

import polars as pl

from circuitlapse.report.series.colours import STEPS, ink, ramp
from circuitlapse.report.series.drawing import WIDEST
from circuitlapse.report.series.grid import Grid, short
from circuitlapse.report.series.map_layout import Layout, map_layout
from circuitlapse.report.series.marks import Scores, edge_differences, packed_edges
from circuitlapse.report.series.run_records import RunRecords


def circuit(records: RunRecords, grid: Grid, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the map's parts for the page's script.

    ``edges.list`` has ``[source, destination, slot, path]``, and ``edges.series`` under
    ``run/task/counterfactual`` for each step the indices in that list, each as the difference from
    the one before, and the scores; an empty task means differences between tasks. ``edges.width``
    is the line width per logit.
    """
    layout = layout_of(records)
    edges = _edges(records.tables["edges"], grid, layout)
    scores = edges["series"] | edge_differences(edges["series"], tasks)
    edges["series"] = {key: [packed_edges(each) for each in steps] for key, steps in scores.items()}
    colours = {theme: ramp(theme) for theme in ("light", "dark")}
    return {
        "layout": {
            "layers": len(layout.rows),
            "heads": len(layout.columns),
            "positions": {kind: list(names) for kind, names in layout.positions.items()},
        },
        "colours": {
            "steps": STEPS,
            "ramp": colours,
            "ink": {theme: [ink(colour) for colour in found] for theme, found in colours.items()},
        },
        "edges": edges,
    }


def layout_of(records: RunRecords) -> Layout:
    """Return the layout of a run's model, with the named positions of its tasks."""
    nodes = records.tables["nodes"]["node"].unique().sort().to_list()
    return map_layout(nodes, positions_of(records))


def positions_of(records: RunRecords) -> dict[str, list[str]]:
    """Named positions that patching distinguishes: of each task, and those that both have."""
    frame = records.tables["patching"].filter(pl.col("position") != "")
    tasks = records.experiment.tasks
    old, new = (
        frame.filter(pl.col("task") == task)["position"].unique(maintain_order=True).to_list()
        for task in (tasks.old, tasks.new)
    )
    return {"old": old, "new": new, "difference": [name for name in old if name in new]}


def _edges(frame: pl.DataFrame, grid: Grid, layout: Layout) -> dict[str, Any]:
    ends = frame.select("writer", "reader").unique().sort("writer", "reader")
    known = [
        (writer, reader)
        for writer, reader in ends.iter_rows()
        if writer in layout.boxes and reader.partition("<")[0] in layout.boxes
    ]
    place = {edge: index for index, edge in enumerate(known)}
    series: dict[str, list[Scores]] = {}
    for run in range(len(grid.runs)):
        at = {step: index for index, step in enumerate(grid.steps)}
        for row in grid.of(run, frame.sort("writer", "reader")).iter_rows(named=True):
            index = place.get((row["writer"], row["reader"]))
            if index is not None:
                key = f"{run}/{row['task']}/{row['counterfactual']}"
                steps = series.setdefault(key, [{} for _ in grid.steps])
                steps[at[row["step"]]][index] = short(row["score"], 3) or 0.0
    largest = max(map(abs, frame["score"].drop_nulls()), default=0.0) or 1.0
    return {
        "list": [
            [
                writer,
                reader.partition("<")[0],
                reader.partition("<")[2][:1],
                layout.path(writer, reader),
            ]
            for writer, reader in known
        ],
        "series": series,
        "largest": largest,
        "width": WIDEST / largest,
    }

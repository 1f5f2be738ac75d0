"""The circuit map's layout, colours and edges, for the page and the exported figures.

Named positions, the model's input, are at the bottom. Above them each layer has a row of heads and
its MLP as a bar, with the logits on top, so every edge leads upwards. Edges between MLPs run in a
lane on the right that has no heads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from circuitlapse.graph import place_of
from circuitlapse.report.series.colours import both_themes
from circuitlapse.report.series.grid import Grid, short
from circuitlapse.report.series.marks import edge_differences, packed_edges
from circuitlapse.report.series.run_records import RunRecords

WIDEST = 7.0  # of an edge with the largest score of the run
_WIDTH, _LEFT, _LANE, _TITLE = 360.0, 30.0, 34.0, 26.0
_PORTS = {"q": 0.25, "k": 0.5, "v": 0.75}


@dataclass(frozen=True)
class Layout:
    """Boxes and paths in the units of one SVG.

    Attributes:
        width: Of the drawing.
        height: Of the drawing.
        boxes: ``[x, y, width, height]`` by node; ``input`` and ``logits`` are among them.
        positions: The parts of the input's box, by map and named position.
        rows: Centre of each layer's row of heads, from layer 0.
        columns: Centre of each head's column.
    """

    width: float
    height: float
    boxes: dict[str, list[float]]
    positions: dict[str, dict[str, list[float]]]
    rows: list[float]
    columns: list[float]
    lanes: dict[str, int] = field(default_factory=dict)

    def path(self, writer: str, reader: str) -> str:
        """Return the path of an edge, as the ``d`` of an SVG path."""
        node, _, slot = reader.partition("<")
        start, end = self.boxes[writer], self.boxes[node]
        wide_start, wide_end = _is_bar(writer), _is_bar(node)
        y1, y2 = start[1], end[1] + end[3]
        if wide_start and wide_end:
            x = self.width - _LANE + 4 + (_LANE - 8) * self.lanes[writer] / len(self.lanes)
            return f"M{_short(x)} {_short(y1)}V{_short(y2)}"
        port = end[0] + end[2] * _PORTS.get(slot[:1], 0.5)
        x1 = port if wide_start else start[0] + start[2] / 2
        x2 = x1 if wide_end else port
        if abs(x1 - x2) < 0.05:
            return f"M{_short(x1)} {_short(y1)}V{_short(y2)}"
        # Relative, as a page has thousands of them and these repeat from layer to layer.
        right, up = _short(x2 - x1), _short(y2 - y1)
        bend = _short((y2 - y1) / 2)
        return f"M{_short(x1)} {_short(y1)}c0 {bend} {right} {bend} {right} {up}"


def _short(value: float) -> str:
    return f"{round(value, 1):g}"


def _is_bar(node: str) -> bool:
    place = place_of(node)
    return place is None or place.head < 0


def map_layout(nodes: Sequence[str], positions: Mapping[str, Sequence[str]]) -> Layout:
    """Lay out the nodes ``a0.h0`` … and ``m0`` …; ``positions`` are from left to right, by map."""
    places = [place for node in nodes if (place := place_of(node))]
    n_layers = 1 + max(place.layer for place in places)
    n_heads = 1 + max(place.head for place in places)
    cell = (_WIDTH - _LEFT - _LANE) / n_heads
    tall = min(cell, 27.0)
    bar = max(7.0, min(15.0, 0.5 * tall))
    gap = max(4.0, min(11.0, 0.4 * tall))
    inset = 1.5 if cell > 16 else 0.6
    boxes: dict[str, list[float]] = {}
    y = _TITLE
    boxes["logits"] = _box(_LEFT, y, _WIDTH - _LEFT, bar)
    y += bar + gap
    rows: list[float] = []
    for layer in reversed(range(n_layers)):
        boxes[f"m{layer}"] = _box(_LEFT, y, _WIDTH - _LEFT, bar)
        y += bar + gap
        for head in range(n_heads):
            x = _LEFT + head * cell
            boxes[f"a{layer}.h{head}"] = _box(x + inset, y, cell - 2 * inset, tall)
        rows.insert(0, round(y + tall / 2, 2))
        y += tall + gap
    boxes["input"] = _box(_LEFT, y, _WIDTH - _LEFT, 22.0)
    chips = {name: _parts(names, y) for name, names in positions.items()}
    bars = ["input", *(f"m{layer}" for layer in range(n_layers))]
    return Layout(
        width=_WIDTH,
        height=y + 22.0 + 18.0,
        boxes=boxes,
        positions=chips,
        rows=rows,
        columns=[round(_LEFT + (head + 0.5) * cell, 2) for head in range(n_heads)],
        lanes={node: place for place, node in enumerate(bars)},
    )


def _parts(names: Sequence[str], y: float) -> dict[str, list[float]]:
    part = (_WIDTH - _LEFT) / max(1, len(names))
    return {
        name: _box(_LEFT + place * part, y, part - (place < len(names) - 1) * 2, 22.0)
        for place, name in enumerate(names)
    }


def _box(x: float, y: float, width: float, height: float) -> list[float]:
    return [round(value, 2) for value in (x, y, width, height)]


def layout_of(records: RunRecords) -> Layout:
    """Return the layout of a run's model, with the named positions of its tasks."""
    nodes = records.tables["nodes"]["node"].unique().sort().to_list()
    return map_layout(nodes, positions_of(records))


def positions_of(records: RunRecords) -> dict[str, list[str]]:
    """Return the named positions that patching distinguishes: of each task, and of both."""
    frame = records.tables["patching"].filter(pl.col("position") != "")
    tasks = records.experiment.tasks
    old, new = (
        frame.filter(pl.col("task") == task)["position"].unique(maintain_order=True).to_list()
        for task in (tasks.old, tasks.new)
    )
    return {"old": old, "new": new, "difference": [name for name in old if name in new]}


def circuit(records: RunRecords, grid: Grid, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the map's parts for the page's script.

    ``edges.list`` has ``[source, destination, slot, path]``, and ``edges.series`` under
    ``run/task/counterfactual`` for each step the indices in that list, each as the difference from
    the one before, and the scores; an empty task means differences between tasks. ``edges.width``
    is the line width per logit.
    """
    layout = layout_of(records)
    return {
        "layout": {
            "layers": len(layout.rows),
            "heads": len(layout.columns),
            "positions": {kind: list(names) for kind, names in layout.positions.items()},
        },
        "colours": both_themes(),
        "edges": _edges(records.tables["edges"], grid, layout, tasks),
    }


def _edges(
    frame: pl.DataFrame, grid: Grid, layout: Layout, tasks: list[dict[str, Any]]
) -> dict[str, Any]:
    frame = frame.sort("writer", "reader")
    known = [
        (writer, reader)
        for writer, reader in frame.select("writer", "reader").unique(maintain_order=True).rows()
        if writer in layout.boxes and reader.partition("<")[0] in layout.boxes
    ]
    place = {edge: index for index, edge in enumerate(known)}
    at = {step: index for index, step in enumerate(grid.steps)}
    series: dict[str, list[dict[int, float]]] = {}
    for key, part in grid.series(frame, "task", "counterfactual"):
        steps = series[key] = [{} for _ in grid.steps]
        for writer, reader, step, score in part.select(
            "writer", "reader", "step", "score"
        ).iter_rows():
            if (writer, reader) in place:
                steps[at[step]][place[writer, reader]] = short(score, 3) or 0.0
    series |= edge_differences(series, tasks)
    largest = max(map(abs, frame["score"].drop_nulls()), default=0.0) or 1.0
    return {
        "list": [
            [writer, node, slot[:1], layout.path(writer, reader)]
            for writer, reader in known
            for node, _, slot in [reader.partition("<")]
        ],
        "series": {key: [packed_edges(each) for each in steps] for key, steps in series.items()},
        "largest": largest,
        "width": WIDEST / largest,
    }

"""Evidence tables as columns for the page's script, and as text for readers without one.

Each is a section of its own: a title, what it answers, a drawing and its numbers. A table of the
schemas that the page has no drawing for is shown all the same. Its columns say how: an interval
(``x``, ``x_low``, ``x_high``) is a panel, text and whole numbers name the row, and a null
distribution (``null_min``, ``null_max``) is the band behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from circuitlapse.report.series.grid import Grid, interval_at, number, short

# Tables that other sections of the page show.
ELSEWHERE = frozenset(
    {
        "behaviour",
        "placebo",
        "nodes",
        "edges",
        "faithfulness",
        "invariance",
        "overlap",
        "head_changes",
        "grafts",
        "readings",
        "patching",
        "roles",
    }
)
_SEEDS = ("base_seed", "recipe", "finetune_seed")
_MOST_ROWS, _MOST_WORDED = 4000, 100


@dataclass(frozen=True)
class Section:
    """How a table is introduced.

    Attributes:
        title: Heading.
        caption: What the drawing shows, in a sentence or two.
        part: Which part of the page it stands in.
    """

    title: str
    caption: str
    part: str = "further"


SECTIONS: Mapping[str, Section] = {
    "output_scales": Section(
        "The base, turned up",
        "What each output of a head or MLP is multiplied by in the rescaled base, fitted to the "
        "component outputs of the fine-tuned model as far as they are read; 1 changes nothing.",
        "weights",
    ),
    "mediation": Section(
        "What the activations of each group carry",
        "Gain that is left when all heads outside the group are held at the base\u2019s "
        "activations, with 95 % intervals. Grey: random groups of as many heads (layer by layer "
        "where there are enough), from the smallest to the largest, and their mean. The dashed "
        "line is the whole improvement.",
        "activations",
    ),
    "crosspatch": Section(
        "Activations put from one model into the other",
        "Improvement in logits when a group\u2019s activations in the fine-tuned model enter the "
        "base\u2019s run of the same prompt, and what is lost the other way round, at one named "
        "position or everywhere. Grey: random groups of as many heads (layer by layer where there "
        "are enough).",
        "activations",
    ),
    "dynamics": Section(
        "When heads and behaviour changed",
        "The step at which the effect of each head has reached 90 % of its change from the first "
        "to the last checkpoint. Triangles point up or down, are as large as the change, and are "
        "outlined where the sign changed. Heads are left out where the 95 % interval of the change "
        "includes zero. Dashed: the behaviour. Dotted: epochs.",
        "time",
    ),
    "elicitable": Section(
        "What training only some parameters reaches",
        "Context for the answer; it enters no share of the improvement. Everything else stays the "
        "base\u2019s; in brackets, how many parameters move. Faint lines: random sets of as many "
        "heads as the old circuit has.",
        "context",
    ),
    "training": Section(
        "How training went",
        "Loss of the answer, its accuracy, and how often the text is ended instead, with 95 % "
        "intervals; faint lines are other seeds. Marks below: the traps that a checkpoint shows.",
        "training",
    ),
    "shortcuts": Section(
        "What shortcuts reach",
        "Accuracy among the candidates of the fine-tuned model and of the base, and what rules "
        "without understanding reach on the same held-out prompts, with 95 % intervals.",
        "method",
    ),
}


def evidence(tables: Mapping[str, pl.DataFrame], grid: Grid) -> dict[str, dict[str, Any]]:
    """Return each evidence table that has rows as columns, which the page's script reads.

    An interval is one column of ``[value, low, high]``, and the four columns of a null distribution
    are one, ``null``: ``[mean, low, high, p]``. ``run`` indexes the page's seeds. ``keys`` names
    the columns of text and whole numbers, ``measures`` those of values.
    """
    return {
        name: _columns(frame, grid)
        for name, frame in tables.items()
        if name not in ELSEWHERE and frame.height
    }


def _columns(frame: pl.DataFrame, grid: Grid) -> dict[str, Any]:
    if frame.height > _MOST_ROWS and "step" in frame.columns:
        frame = frame.filter(pl.col("step") == pl.col("step").max())
    index = {seeds: place for place, seeds in enumerate(grid.runs)}
    runs = [index.get(row) for row in frame.select("base_seed", "finetune_seed").iter_rows()]
    known = pl.Series(run is not None for run in runs)
    frame = frame.filter(known).head(_MOST_ROWS)
    intervals = [name for name in frame.columns if f"{name}_low" in frame.columns]
    ends = {f"{name}_{end}" for name in intervals for end in ("low", "high")}
    null = [name for name in _NULL if name in frame.columns] if "null_min" in frame.columns else []
    rest = [n for n in frame.columns if n not in {*_SEEDS, *intervals, *ends, *null}]
    found: dict[str, Any] = {"run": [run for run in runs if run is not None][: frame.height]}
    for name in intervals:
        found[name] = _several(frame, [name, f"{name}_low", f"{name}_high"])
    if null:
        found["null"] = _several(frame, null)
    for name in rest:
        values = frame[name].to_list()
        found[name] = [short(v) for v in values] if frame.schema[name].is_float() else values
    plain = [name for name in rest if frame.schema[name].is_float()]
    return {
        "columns": found,
        "keys": [name for name in rest if name not in plain and name != "step"],
        "measures": [*intervals, *plain],
    }


_NULL = ("null_mean", "null_min", "null_max", "p_value")


def _several(frame: pl.DataFrame, names: list[str]) -> list[list[float | None]]:
    return [[short(value) for value in row] for row in frame.select(names).iter_rows()]


def table_descriptions(tables: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Word the same tables for readers without JavaScript, at most a hundred rows each."""
    order = {name: place for place, name in enumerate(SECTIONS)}
    names = sorted(tables, key=lambda name: order.get(name, len(order)))
    return [
        _worded(name, tables[name])
        for name in names
        if name not in ELSEWHERE and tables[name].height
    ]


def _worded(name: str, frame: pl.DataFrame) -> dict[str, Any]:
    ends = {c for c in frame.columns if c.endswith(("_low", "_high"))}
    alike = {c for c in _SEEDS if c in frame.columns and frame[c].n_unique() == 1}
    columns = [c for c in frame.columns if c not in alike and (c not in ends or c[:5] == "null_")]
    section = SECTIONS.get(name, Section(name.replace("_", " ").capitalize(), ""))
    if "step" in frame.columns and frame.height > _MOST_WORDED:
        frame = frame.filter(pl.col("step").is_null() | (pl.col("step") == pl.col("step").max()))
    rows = frame.head(_MOST_WORDED)
    return {
        "name": name,
        "section": section,
        "drawn": name in SECTIONS,
        "columns": [c.replace("_", " ") for c in columns],
        "rows": [
            [_cell(frame, row, column) for column in columns] for row in rows.iter_rows(named=True)
        ],
        "total": frame.height,
    }


def _cell(frame: pl.DataFrame, row: dict[str, Any], column: str) -> str:
    if f"{column}_low" in frame.columns:
        return interval_at(row, column)
    value = row[column]
    return number(value) if isinstance(value, float) else "" if value is None else str(value)

"""Evidence tables as columns for the page's script, and as text for readers without one.

Each is a section: a title, a caption, a drawing and its numbers. A table without a drawing of its
own is drawn from its columns: an interval (``x``, ``x_low``, ``x_high``) is a panel, text and whole
numbers name the row, and a null distribution (``null_min``, ``null_max``) is a grey band.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from circuitlapse.analyses.analysis import Section
from circuitlapse.analyses.registry import BY_NAME
from circuitlapse.report.series.grid import Grid, interval_at, number, short

_SEEDS = ("base_seed", "recipe", "finetune_seed")
_MOST_ROWS, _MOST_WORDED = 4000, 100


def shown_in(table: str) -> str:
    """The part of the page that shows a table; empty for one with a section of its own."""
    return BY_NAME[table].shown_in if table in BY_NAME else ""


def evidence(tables: Mapping[str, pl.DataFrame], grid: Grid) -> dict[str, dict[str, Any]]:
    """Return each evidence table with rows as columns for the page's script.

    An interval is one column of ``[value, low, high]``, a null distribution one of
    ``[mean, low, high, p]``. ``run`` indexes the page's seeds. ``keys`` names the columns of text
    and whole numbers, ``measures`` those of values.
    """
    return {
        name: _columns(frame, grid)
        for name, frame in tables.items()
        if not shown_in(name) and frame.height
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
    """Return the same tables as text, at most a hundred rows each."""
    order = {name: place for place, name in enumerate(BY_NAME)}
    names = sorted(tables, key=lambda name: order.get(name, len(order)))
    return [
        _worded(name, tables[name]) for name in names if not shown_in(name) and tables[name].height
    ]


def _worded(name: str, frame: pl.DataFrame) -> dict[str, Any]:
    ends = {c for c in frame.columns if c.endswith(("_low", "_high"))}
    alike = {c for c in _SEEDS if c in frame.columns and frame[c].n_unique() == 1}
    columns = [c for c in frame.columns if c not in alike and (c not in ends or c[:5] == "null_")]
    section = BY_NAME[name].section if name in BY_NAME else None
    if "step" in frame.columns and frame.height > _MOST_WORDED:
        frame = frame.filter(pl.col("step").is_null() | (pl.col("step") == pl.col("step").max()))
    rows = frame.head(_MOST_WORDED)
    return {
        "name": name,
        "section": section or Section(name.replace("_", " ").capitalize(), ""),
        "drawn": section is not None,
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

"""Evidence tables without a drawing of their own: each becomes a chart of values with intervals.

A table of the schemas that no other section draws is shown here as it is. Its columns say how: an
interval (``x``, ``x_low``, ``x_high``) is a panel, text and whole numbers name the row, and a null
distribution (``null_low``, ``null_high``) is the band behind it.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from circuitlapse.report.grid import Grid
from circuitlapse.report.numbers import interval_at, number, short

DRAWN = frozenset({
    "behaviour", "placebo", "nodes", "edges", "faithfulness", "controls", "overlap", "fates",
    "grafts", "readings", "patching",
})  # fmt: skip
_SEEDS = ("base_seed", "finetune_seed")
_MOST_ROWS = 4000

# Title and caption by table; a table that is not listed goes by its name.
TITLES: Mapping[str, tuple[str, str]] = {
    "roles": ("Roles", "What each head does, by its signature."),
    "mediation": ("Mediation", "The gain left when everything outside a group is held at the "
                  "base\u2019s activations."),
    "crosspatch": ("Cross-model patching", "The gain when activations of a group are those of "
                   "the other model."),
    "elicitable": ("What the base could be brought to do", "Context for the answer; it is in no "
                   "share of the gain."),
    "dynamics": ("Dynamics", "When heads and behaviour change."),
    "training": ("Training controls", "What training only some of the parameters reaches."),
}  # fmt: skip


def extras(tables: Mapping[str, pl.DataFrame], grid: Grid) -> list[dict[str, Any]]:
    """Describe each further table that has rows, with its rows for the page's script."""
    return [
        _extra(name, frame, grid)
        for name, frame in tables.items()
        if name not in DRAWN and frame.height
    ]


def _extra(name: str, frame: pl.DataFrame, grid: Grid) -> dict[str, Any]:
    if frame.height > _MOST_ROWS and "step" in frame.columns:
        frame = frame.filter(pl.col("step") == pl.col("step").max())
    frame = frame.head(_MOST_ROWS)
    title, caption = TITLES.get(name, (name.replace("_", " ").capitalize(), ""))
    measures = [column for column in frame.columns if f"{column}_low" in frame.columns]
    null = [column for column in ("null_low", "null_high") if column in frame.columns]
    ends = {f"{column}_{end}" for column in measures for end in ("low", "high")}
    rest = [c for c in frame.columns if c not in {*_SEEDS, *measures, *null, *ends, "step"}]
    keys = [c for c in rest if not frame.schema[c].is_float()]
    plain = [c for c in rest if frame.schema[c].is_float()]
    index = {seeds: place for place, seeds in enumerate(grid.runs)}
    rows = []
    for row in frame.iter_rows(named=True):
        run = index.get((row[_SEEDS[0]], row[_SEEDS[1]]))
        if run is None:
            continue
        values = {
            measure: [short(row[measure]), *(short(row[f"{measure}_{e}"]) for e in ("low", "high"))]
            for measure in measures
        }
        values |= {column: [short(row[column]), None, None] for column in plain}
        rows.append({
            "run": run, "step": row.get("step", grid.steps[-1]),
            "label": " · ".join(str(row[key]) for key in keys if row[key] not in (None, "")),
            "values": values, "null": [short(row[column]) for column in null],
        })  # fmt: skip
    return {"name": name, "title": title, "caption": caption, "measures": [*measures, *plain],
            "rows": rows}  # fmt: skip


def extra_tables(tables: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Word the same tables for readers without JavaScript, at most a hundred rows each."""
    found = []
    for name, frame in tables.items():
        if name in DRAWN or not frame.height:
            continue
        ends = {c for c in frame.columns if c.endswith(("_low", "_high"))}
        columns = [c for c in frame.columns if c not in ends or c.startswith("null_")]
        title, caption = TITLES.get(name, (name.replace("_", " ").capitalize(), ""))
        rows = [
            [_cell(frame, row, column) for column in columns]
            for row in frame.head(100).iter_rows(named=True)
        ]
        found.append({"name": name, "title": title, "caption": caption, "rows": rows,
                      "columns": [c.replace("_", " ") for c in columns],
                      "total": frame.height})  # fmt: skip
    return found


def _cell(frame: pl.DataFrame, row: dict[str, Any], column: str) -> str:
    if f"{column}_low" in frame.columns:
        return interval_at(row, column)
    value = row[column]
    return number(value) if isinstance(value, float) else "" if value is None else str(value)

"""Fates and roles of the heads over training, one character for each head and step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.report.data import RunRecords
from circuitlapse.report.grid import Grid, numbers
from circuitlapse.report.names import FATES, node_label, task_title
from circuitlapse.report.numbers import number, short

ROLES = (
    "mover", "negative mover", "induction", "duplicate token", "previous token", "reader", "none",
)  # fmt: skip
_FIRST = 0x23
_WORDS = (
    "role", "attends", "q_reads", "k_reads", "v_reads", "features", "source", "changed",
)  # fmt: skip
_NUMBERS = ("attention", "q_share", "k_share", "v_share", "distance", "noise", "approach")


def over_time(records: RunRecords, grid: Grid, nodes: Sequence[str]) -> dict[str, Any]:
    """Collect the signs of every head and step, and what each head does at both ends.

    ``fates_over`` has under ``run/corruption``, and ``roles.series`` under ``run/task``, a string
    over [steps, heads]: the sign's place in its list of names after "#", or a blank.
    """
    heads = [node for node in nodes if node.startswith("a")]
    fates, roles = records.tables["fates"], records.tables.get("roles")
    over, series, distance, ends = {}, {}, {}, {}
    for run in range(len(grid.runs)):
        for (family,), part in grid.of(run, fates).group_by("corruption", maintain_order=True):
            over[f"{run}/{family}"] = _signs(part, "fate", tuple(FATES), grid, heads)
        if roles is None:
            continue
        for (task,), part in grid.of(run, roles).group_by("task", maintain_order=True):
            key = f"{run}/{task}"
            series[key] = _signs(part, "role", ROLES, grid, heads)
            distance[key] = numbers(grid.values(part, "node", heads, "distance"), 3)
            ends[key] = [_words(part, step, heads) for step in (grid.steps[0], grid.steps[-1])]
    return {
        "fates_over": over,
        "roles": {"names": ROLES, "series": series, "distance": distance, "ends": ends},
    }


def _signs(
    frame: pl.DataFrame, column: str, names: Sequence[str], grid: Grid, heads: Sequence[str]
) -> str:
    known = frame.filter(pl.col(column).is_in(list(names)))
    coded = known.with_columns(
        code=pl.col(column).replace_strict(list(names), range(len(names)), return_dtype=pl.Float64)
    )
    found = grid.values(coded, "node", heads, "code").ravel()
    letters = np.where(np.isnan(found), 0x20, np.nan_to_num(found) + _FIRST)
    return letters.astype(np.uint8).tobytes().decode("ascii")


def _words(frame: pl.DataFrame, step: int, heads: Sequence[str]) -> list[dict[str, Any] | None]:
    rows = {row["node"]: row for row in frame.filter(pl.col("step") == step).iter_rows(named=True)}
    return [
        {name: row[name] for name in _WORDS} | {name: short(row[name], 3) for name in _NUMBERS}
        if (row := rows.get(head))
        else None
        for head in heads
    ]


def role_rows(records: RunRecords) -> list[dict[str, str]]:
    """Word what changed for readers without JavaScript: heads of another role, or signature."""
    frame = records.tables.get("roles")
    if frame is None or frame.is_empty():
        return []
    keys = ["base_seed", "finetune_seed", "task", "node"]
    first = frame.filter(pl.col("step") == 0).select(*keys, base_role="role", base_way="attends")
    last = frame.filter(pl.col("step") == pl.col("step").max()).join(first, on=keys, how="left")
    changed = last.filter(pl.col("changed") | (pl.col("role") != pl.col("base_role")))
    return [
        {
            "seeds": f"{row['base_seed']}.{row['finetune_seed']}",
            "task": task_title(row["task"]), "head": node_label(row["node"]),
            "base": f"{row['base_role']}, {row['base_way']}".removesuffix(", "),
            "last": f"{row['role']}, {row['attends']}".removesuffix(", "),
            "distance": number(row["distance"]), "noise": number(row["noise"]),
            "features": row["features"],
        }
        for row in changed.sort("distance", descending=True).iter_rows(named=True)
    ]  # fmt: skip

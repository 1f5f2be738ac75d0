"""Checkpoint details: lens, direct attribution, head profiles, patches, roles over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.heads.role_names import ROLE_NAMES
from circuitlapse.report.series.grid import Grid, characters, number, numbers, short
from circuitlapse.report.series.labels import CATEGORIES, node_label, task_title
from circuitlapse.report.series.map_layout import positions_of
from circuitlapse.report.series.run_records import RunRecords

_STREAM = ("resid_pre", "attn_out", "mlp_out")
_MOST_WEIGHTS = 2_000_000


def checkpoint_details(records: RunRecords, grid: Grid, nodes: list[str]) -> dict[str, Any]:
    """Collect the series of the table ``readings`` and the example patterns.

    Keys join run, task and the rest by ``/``; everything runs over [steps, components].
    """
    heads = [node for node in nodes if node.startswith("a")]
    layers = 1 + max((int(node[1:]) for node in nodes if node.startswith("m")), default=0)
    names = {
        "logit_lens": [f"resid{layer}" for layer in range(layers + 1)],
        "direct": ["input", *nodes, "constant"],
    }
    tasks = (records.experiment.tasks.old, records.experiment.tasks.new)
    frame = records.tables["readings"]
    own = frame.filter(pl.col("task").is_in(tasks), pl.col("reading").is_in(list(names)))
    lens, direct = (
        {
            key: grid.spread(part, "component", names[name], "value")
            for key, part in grid.series(own.filter(pl.col("reading") == name), "task")
        }
        for name in names
    )
    return {
        "components": names["direct"],
        "points": names["logit_lens"],
        "lens": lens,
        "direct": direct,
        "largest_reading": _largest_reading(own),
        "profiles": _profiles(frame.filter(~pl.col("reading").is_in(list(names))), grid, heads),
        "patterns": _patterns(records, _ends(grid)),
    }


def _ends(grid: Grid) -> Grid:
    return Grid(grid.runs, [grid.steps[0], grid.steps[-1]])


def _largest_reading(frame: pl.DataFrame) -> float:
    """End of the colour scale of readings, in which a layer's heads are added up."""
    layer = pl.col("component").str.replace(r"\.h\d+$", "")
    keys = ["base_seed", "finetune_seed", "task", "step", "reading", layer]
    values = frame.group_by(keys).agg(pl.col("value").sum())["value"].to_numpy()
    return short(float(np.nanmax(np.abs(values), initial=0))) or 1.0


def _profiles(frame: pl.DataFrame, grid: Grid, heads: list[str]) -> dict[str, Any]:
    """``run/task/reading/positions`` → values over [steps, heads], and both ends' intervals."""
    found = {}
    frame = frame.with_columns(pl.col("task").fill_null(""))
    for key, part in grid.series(frame, "task", "reading", "positions"):
        values, low, high = (
            grid.values(part, "component", heads, name)
            for name in ("value", "value_low", "value_high")
        )
        found[key] = {
            "values": characters(values),
            "ends": [numbers(each[[0, -1]]) for each in (values, low, high)],
        }
    return found


def patches(records: RunRecords, grid: Grid, nodes: list[str]) -> dict[str, Any]:
    """Collect the series of the table ``patching``.

    ``run/task/site`` → effect and half its interval, over [both ends, layers x positions or heads].
    Key-value heads are repeated for the heads that share them.
    """
    heads = [node for node in nodes if node.startswith("a")]
    named = positions_of(records)
    positions = list(dict.fromkeys([*named["old"], *named["new"]]))
    ends, found = _ends(grid), {}
    for key, part in ends.series(records.tables["patching"], "task", "site"):
        if key.rpartition("/")[2] in _STREAM:
            layers = sorted(part["layer"].unique().to_list())
            names = [f"{layer}/{name}" for layer in layers for name in positions]
            where = pl.concat_str(pl.col("layer"), pl.lit("/"), pl.col("position"))
        else:
            names = heads
            groups = len({int(node.split(".h")[1]) for node in heads}) // (part["head"].n_unique())
            part = part.with_columns(
                head=pl.int_ranges(pl.col("head") * groups, (pl.col("head") + 1) * groups)
            ).explode("head")
            where = pl.concat_str(pl.lit("a"), pl.col("layer"), pl.lit(".h"), pl.col("head"))
        value, low = (
            ends.values(part.with_columns(name=where), "name", names, column)
            for column in ("effect", "effect_low")
        )
        found[key] = [numbers(value), numbers(value - low)]
    return {"positions": positions, "patching": found}


def _patterns(records: RunRecords, ends: Grid) -> dict[str, Any]:
    """Attention on the example prompts, heads with the largest effect at any checkpoint first."""
    seen = records.patterns
    lengths = [len(tokens) for prompts in seen.tokens.values() for tokens in prompts]
    per_head = 2 * len(ends.runs) * max(1, sum(length * (length + 1) // 2 for length in lengths))
    heads = _strongest(records.tables["nodes"], _MOST_WEIGHTS // per_head)
    return {"tokens": seen.tokens, "heads": heads, "weights": _weights(records, ends, heads)}


def _weights(records: RunRecords, ends: Grid, heads: list[str]) -> dict[str, list[str]]:
    """``run/task`` → a string for each prompt over [base and last step, heads, lower triangle]."""
    seen = records.patterns
    index = [tuple(int(part) for part in node[1:].split(".h")) for node in heads]
    layer, head = (np.array([place[axis] for place in index], dtype=int) for axis in (0, 1))
    weights: dict[str, list[str]] = {}
    for run, (_, seed) in enumerate(ends.runs):
        for task, prompts in seen.tokens.items():
            weights[f"{run}/{task}"] = [
                "".join(
                    _triangle(seen.weights[seed, step][task][place, layer, head, :n, :n])
                    if (seed, step) in seen.weights
                    else " " * (len(heads) * n * (n + 1) // 2)
                    for step in ends.steps
                )
                for place, n in enumerate(len(tokens) for tokens in prompts)
            ]
    return weights


def _triangle(weights: np.ndarray) -> str:
    n = weights.shape[-1]
    rows, columns = np.tril_indices(n)
    return characters(weights[:, rows, columns].astype(float) / 255)


def _strongest(frame: pl.DataFrame, count: int) -> list[str]:
    """Name the heads with the largest effect anywhere, the largest first."""
    order = (
        frame.filter(pl.col("kind") == "head")
        .group_by("node", "layer", "head")
        .agg(size=pl.col("effect").abs().max())
        .sort(["size", "layer", "head"], descending=[True, False, False])
    )
    return order["node"].head(count).to_list()


_FIRST = 0x23
_WORDS = ("role", "attends", "q_reads", "k_reads", "v_reads", "features", "source", "changed")
_NUMBERS = ("attention", "q_share", "k_share", "v_share", "distance", "noise", "approach")


def over_time(records: RunRecords, grid: Grid, nodes: Sequence[str]) -> dict[str, Any]:
    """Collect the change category of every head and step, and each head's role at both ends.

    ``head_changes_over`` has under ``run/counterfactual``, and ``roles.series`` under ``run/task``,
    a string over [steps, heads]: the category's index after "#", or a blank.
    """
    heads = [node for node in nodes if node.startswith("a")]
    over = {
        key: _signs(part, "category", tuple(CATEGORIES), grid, heads)
        for key, part in grid.series(records.tables["head_changes"], "counterfactual")
    }
    series, distance, ends = {}, {}, {}
    for key, part in grid.series(records.tables["roles"], "task"):
        series[key] = _signs(part, "role", ROLE_NAMES, grid, heads)
        distance[key] = numbers(grid.values(part, "node", heads, "distance"), 3)
        ends[key] = [_words(part, step, heads) for step in (grid.steps[0], grid.steps[-1])]
    return {
        "head_changes_over": over,
        "roles": {"names": ROLE_NAMES, "series": series, "distance": distance, "ends": ends},
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
    """Describe heads whose role or profile changed, for readers without JavaScript."""
    frame = records.tables["roles"]
    keys = ["base_seed", "finetune_seed", "task", "node"]
    base = {"base_role": "role", "base_attends": "attends"}
    first = frame.filter(pl.col("step") == 0).select(*keys, **base)
    last = frame.filter(pl.col("step") == pl.col("step").max()).join(first, on=keys, how="left")
    changed = last.filter(pl.col("changed") | (pl.col("role") != pl.col("base_role")))
    return [
        {
            "seeds": f"{row['base_seed']}.{row['finetune_seed']}",
            "task": task_title(row["task"]),
            "head": node_label(row["node"]),
            "base": f"{row['base_role']}, {row['base_attends']}".removesuffix(", "),
            "last": f"{row['role']}, {row['attends']}".removesuffix(", "),
            "distance": number(row["distance"]),
            "noise": number(row["noise"]),
            "features": row["features"],
        }
        for row in changed.sort("distance", descending=True).iter_rows(named=True)
    ]

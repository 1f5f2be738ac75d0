"""The drawings of the first screen: was it there, what carries it, and where organisms lie.

All places are in units of a drawing of width ``WIDTH``. They are computed here and not in a script,
so that the answer is there without one, and no scale moves.
"""

from collections.abc import Callable, Iterable
from math import isinf, log2
from typing import Any

import polars as pl

from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict import label_marks as marks
from circuitlapse.verdict.measures import heads_of_directions

WIDTH, LINE = 560.0, 30.0
_LEFT, _RIGHT = 204.0, 8.0
# Heads, measure, its name on the page, and the marks that decide.
_MEASURES = (
    ("", "variable_effect", "variable moves the answer", (marks.VARIABLE_USED,)),
    ("old", "dependence", "dependence on old-task heads", (marks.DEPENDENT,)),
    (
        "old",
        "same_directions",
        "in the same directions",
        (marks.OTHER_DIRECTIONS, marks.SAME_DIRECTIONS),
    ),
    ("old", "sufficiency", "old-task heads suffice", (marks.SUFFICIENT,)),
    ("new", "sufficiency", "new heads suffice", (marks.SUFFICIENT,)),
    ("new", "necessity", "new heads are necessary", (marks.NECESSARY,)),
)


def carried(carriers: pl.DataFrame) -> dict[str, Any]:
    """Lay out the last step's measures of every fine-tune, with random groups, marks and control.

    ``carriers`` is the table of that name.
    """
    rows = carriers.filter(pl.col("step") == pl.col("step").max()).to_dicts()
    controls = [row for row in rows if row["heads"] == "relearned" and row["value"] is not None]
    shown = []
    for heads, measure, title, known in _MEASURES:
        if measure == "same_directions":
            heads = heads_of_directions(heads, controlled=bool(controls))
        found = [row for row in rows if (row["heads"], row["measure"]) == (heads, measure)]
        shown.append((title, measure, known, found))
    ends = [
        value
        for *_, found in shown
        for row in found
        for value in (row["value_low"], row["value_high"], row["null_min"], row["null_max"])
        if value is not None
    ]
    low, high = min([-0.1, *ends]), max([1.1, *ends])

    def x(value: float) -> float:
        return round(_LEFT + (value - low) / (high - low) * (WIDTH - _LEFT - _RIGHT), 1)

    lines = []
    for number, (title, measure, known, found) in enumerate(shown):
        y = 12 + number * LINE + LINE / 2
        control = controls[0] if controls and measure == "same_directions" else None
        lines.append(
            {
                "title": title,
                "y": y,
                "marks": [x(mark) for mark in known],
                "null": _band(found, x),
                "control": control and (x(control["value_low"]), x(control["value_high"])),
                "dots": [_dot(row, x) for row in found if row["value"] is not None],
                "text": _said(found),
            }
        )
    height = 12 + len(lines) * LINE
    ticks = [(x(tick), f"{tick:g}") for tick in (0.0, 0.5, 1.0)]
    return {
        "lines": lines,
        "ticks": ticks,
        "bottom": height,
        "height": height + 18,
        "control": bool(controls),
    }


def _band(
    rows: Iterable[dict[str, Any]], x: Callable[[float], float]
) -> tuple[float, float] | None:
    """From the smallest to the largest random group."""
    known = [row for row in rows if row["null_max"] is not None]
    if not known:
        return None
    low, high = min(row["null_min"] for row in known), max(row["null_max"] for row in known)
    return x(low), x(high)


def _dot(row: dict[str, Any], x: Callable[[float], float]) -> dict[str, float]:
    return {"at": x(row["value"]), "low": x(row["value_low"]), "high": x(row["value_high"])}


def _said(rows: list[dict[str, Any]]) -> str:
    """The value with its interval, or why there is none."""
    known = [each for row in rows if (each := Estimate.of(row, "value")) is not None]
    if not known:
        return next((row["not_reported"] for row in rows), "not measured")
    if len(known) == 1:
        return known[0].text()
    values = [each.value for each in known]
    return f"{min(values):.2f} to {max(values):.2f} in {len(values)} seeds"


def bits(table: pl.DataFrame) -> dict[str, Any] | None:
    """Lay out bits_ratio of the table ``bits``, by factors of two; None if it was not measured."""
    rows = {row["which"]: row for row in table.to_dicts()}
    ratio = Estimate.of(rows["ratio"], "value") if "ratio" in rows else None
    if ratio is None:
        return None
    high = 2 * ratio.low if isinf(ratio.high) else ratio.high
    low_end, high_end = min(-3.0, log2(ratio.low)), max(3.0, log2(high))

    def x(value: float) -> float:
        return round(8 + (log2(value) - low_end) / (high_end - low_end) * (WIDTH - 16), 1)

    return {
        "mark": x(marks.LATENT_BITS),
        "at": x(ratio.value),
        "low": x(ratio.low),
        "high": x(high),
        "ticks": [(x(tick), f"{tick:g}") for tick in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)],
        "costs": [
            (name, value.text(digits=0))
            for which, name in (("new", "new task"), ("reference", "reference task"))
            if which in rows and (value := Estimate.of(rows[which], "value")) is not None
        ],
    }

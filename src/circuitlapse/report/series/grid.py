"""Tables as lists over steps and columns for the page's script, and the format of numbers.

Null means that a seed has no such row.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.stats.intervals import Estimate

_SEEDS = ("base_seed", "finetune_seed")
_FIRST, _LEVELS = 0x23, 63  # characters of quantised weights: "#" to "b"


@dataclass(frozen=True)
class Grid:
    """The axis of all series: runs and steps.

    Attributes:
        runs: (base seed, fine-tuning seed) of each run, in the page's order.
        steps: All steps of any run.
    """

    runs: list[tuple[int, int]]
    steps: list[int]

    def of(self, run: int, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a run's rows at the grid's steps."""
        base, tune = self.runs[run]
        mine = (pl.col("base_seed") == base) & (pl.col("finetune_seed") == tune)
        return frame.filter(mine & pl.col("step").is_in(self.steps))

    def values(
        self, frame: pl.DataFrame, column: str, names: Sequence[str], value: str
    ) -> np.ndarray:
        """Return ``[steps, names]`` of the column ``value``, NaN where there is no row."""
        found = np.full((len(self.steps), len(names)), np.nan)
        known = frame.filter(pl.col(column).is_in(list(names)))
        if known.height:
            rows = known["step"].replace_strict(self.steps, range(len(self.steps)))
            places = known[column].replace_strict(list(names), range(len(names)))
            found[rows.to_numpy(), places.to_numpy()] = known[value].to_numpy()
        return found

    def spread(
        self, frame: pl.DataFrame, column: str, names: Sequence[str], value: str
    ) -> list[list[float | None]]:
        """Return value, lower and upper end, each flattened over ``[steps, names]``."""
        ends = (value, f"{value}_low", f"{value}_high")
        return [numbers(self.values(frame, column, names, name)) for name in ends]


def grid_of(behaviour: pl.DataFrame, nodes: pl.DataFrame) -> Grid:
    """Return the grid of a run directory: each run that has behaviour, and all steps."""
    runs = behaviour.select(_SEEDS).unique().sort(_SEEDS).rows()
    return Grid(runs, sorted({*behaviour["step"].to_list(), *nodes["step"].to_list()}))


def numbers(values: np.ndarray, digits: int = 4) -> list[float | None]:
    """Flatten to numbers of a few significant digits, null for what is not finite."""
    return [short(value, digits) for value in values.ravel().tolist()]


def characters(weights: np.ndarray) -> str:
    """Write weights between 0 and 1 as one character each, in steps of 1/63; NaN as a blank."""
    levels = np.rint(np.clip(np.nan_to_num(weights), 0, 1) * _LEVELS).astype(np.uint8) + _FIRST
    levels[np.isnan(weights)] = 0x20
    return levels.astype(np.uint8).tobytes().decode("ascii")


_NULL = "\u2013"
_MINUS = re.compile(r"(?<![\w.-])-(?=[\d.])")


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed count of decimals, a real minus sign, and a dash for null."""
    if value is None or not math.isfinite(value):
        return _NULL
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\u2212")


def estimate(value: Estimate | None) -> str:
    """Write a value with its interval: ``0.42 [0.35, 0.49]``."""
    if value is None:
        return _NULL
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"


def interval_at(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Write the columns ``name``, ``name_low`` and ``name_high`` of a row as an estimate."""
    if row[name] is None:
        return _NULL
    text = number(row[name], digits)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return text if low is None else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def typeset(text: str) -> str:
    """Give a sentence with numbers real minus signs, and keep each number and its % on one line."""
    return _MINUS.sub("\u2212", text).replace(" %", "\u00a0%")


def short(value: float | None, digits: int = 4) -> float | None:
    """Keep a few significant digits, by default more than a drawing shows; null if not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")

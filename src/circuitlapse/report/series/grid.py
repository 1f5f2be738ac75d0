"""Tables as lists over steps and columns for the page's script, and the format of numbers."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.stats.intervals import Estimate

_SEEDS = ("base_seed", "finetune_seed")
_FIRST, _LEVELS = 0x23, 63  # characters of quantised weights: "#" to "b"


@dataclass(frozen=True)
class Grid:
    """The axes that all series share: runs, as (base seed, fine-tuning seed), and steps.

    A series has null where a run has no row at a step.
    """

    runs: list[tuple[int, int]]
    steps: list[int]

    def of(self, run: int, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a run's rows at the grid's steps."""
        base, tune = self.runs[run]
        mine = (pl.col("base_seed") == base) & (pl.col("finetune_seed") == tune)
        return frame.filter(mine & pl.col("step").is_in(self.steps))

    def rows(self, frame: pl.DataFrame) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each row with the index of its run."""
        for run in range(len(self.runs)):
            for row in self.of(run, frame).iter_rows(named=True):
                yield run, row

    def series(self, frame: pl.DataFrame, *keys: str) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield each run's rows by the values of columns, under ``run/value/…``."""
        for run in range(len(self.runs)):
            for values, part in self.of(run, frame).group_by(keys, maintain_order=True):
                yield "/".join(map(str, (run, *values))), part

    def values(
        self, frame: pl.DataFrame, column: str, names: Sequence[Any], value: str
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

    def over_steps(self, frame: pl.DataFrame, value: str) -> list[list[float | None]]:
        """Return value, lower and upper end over the steps of a frame with one row each."""
        return self.spread(frame.with_columns(whole=pl.lit("")), "whole", [""], value)


def grid_of(behaviour: pl.DataFrame, nodes: pl.DataFrame) -> Grid:
    """Return the grid of a run directory: each run that has behaviour rows, and all steps."""
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


def triple(row: dict[str, Any], name: str) -> list[float | None]:
    """Return the columns ``name``, ``name_low`` and ``name_high`` of a row."""
    return [short(row[column]) for column in (name, f"{name}_low", f"{name}_high")]


def interval_at(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Write the columns ``name``, ``name_low`` and ``name_high`` of a row as an estimate."""
    if row[name] is None:
        return _NULL
    text = number(row[name], digits)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return text if low is None else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def typeset(text: str) -> str:
    """Set real minus signs in a sentence, and keep each number and its % on one line."""
    return _MINUS.sub("\u2212", text).replace(" %", "\u00a0%")


def short(value: float | None, digits: int = 4) -> float | None:
    """Keep a few significant digits, by default more than a drawing shows; null if not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")

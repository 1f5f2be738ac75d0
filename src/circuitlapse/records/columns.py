"""Columns of tables: names, types and meaning. An interval is flattened here, and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from circuitlapse.stats.intervals import Estimate

Row = dict[str, Any]
Kind = Literal["text", "integer", "real", "flag", "numbers", "interval"]
_TYPES: Mapping[Kind, Any] = {
    "text": pl.String,
    "integer": pl.Int64,
    "real": pl.Float64,
    "flag": pl.Boolean,
    "numbers": pl.List(pl.Float64),
}


@dataclass(frozen=True)
class Column:
    """A column of a table; an interval is three columns.

    Attributes:
        name: As in the table.
        kind: ``interval``: an ``Estimate`` or None, in columns ``x``, ``x_low`` and ``x_high``.
        meaning: One phrase, with the unit.
    """

    name: str
    kind: Kind
    meaning: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """The columns of the file, with their types."""
        if self.kind == "interval":
            return dict.fromkeys((self.name, f"{self.name}_low", f"{self.name}_high"), pl.Float64)
        return {self.name: _TYPES[self.kind]}

    def flat(self, value: Any) -> dict[str, Any]:
        """The value of a row in the columns of the file."""
        if self.kind != "interval":
            return {self.name: value}
        if value is None or isinstance(value, float):  # no interval is known
            return dict.fromkeys(self.schema) | {self.name: value}
        return value.columns(self.name)

    def whole(self, row: Row) -> Any:
        """The value of a row whose columns are those of the file."""
        if self.kind == "interval":
            return Estimate.of(row, self.name)
        return row[self.name]


def text(name: str, meaning: str = "") -> Column:
    """A column of text."""
    return Column(name, "text", meaning)


def integer(name: str, meaning: str = "") -> Column:
    """A column of whole numbers."""
    return Column(name, "integer", meaning)


def real(name: str, meaning: str = "") -> Column:
    """A column of numbers."""
    return Column(name, "real", meaning)


def flag(name: str, meaning: str = "") -> Column:
    """A column of truth values."""
    return Column(name, "flag", meaning)


def numbers(name: str, meaning: str = "") -> Column:
    """A column of lists of numbers."""
    return Column(name, "numbers", meaning)


def interval(name: str, meaning: str = "") -> Column:
    """A number with the ends of its 95 % interval."""
    return Column(name, "interval", meaning)


TRAINING_RUN = (
    integer("base_seed"),
    text("recipe", "`default`, or what differs in a grid of recipes"),
    integer("finetune_seed"),
)
"""The columns that name a fine-tune; the reference explains them once for all tables."""
STEP = integer("step", "the optimiser step")
TASK = text("task", "the task")
COUNTERFACTUAL = text("counterfactual", "a counterfactual type, or one of its variants")
NODE = text("node", "a head (`a1.h3`) or an MLP (`m1`)")
PLACE = (integer("layer", "counts from 0"), integer("head", "counts from 0; -1 for an MLP"))

"""What an analysis is: a table, what it is made from, and how a page and a verdict use it.

One entry says all of it. The schema of the table, its job and the key of that job, its section of
the report, its sentences in the verdict and its page in the reference follow from the entry.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any, Literal

import polars as pl

from circuitlapse.analyses.data import Row, RunData
from circuitlapse.records.documents import Evidence
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.random_baseline import RandomBaseline
from circuitlapse.verdict.preconditions import Context

Kind = Literal["text", "integer", "real", "flag", "interval", "random"]
Subject = Literal[
    "Behaviour",
    "Circuit structure",
    "Function",
    "Causes, by weights",
    "Causes, by activations",
    "Time",
    "Context",
]
"""Headings under which the report sorts the verdict's sentences."""

_TYPES: Mapping[Kind, Any] = {
    "text": pl.String,
    "integer": pl.Int64,
    "real": pl.Float64,
    "flag": pl.Boolean,
}
_RANDOM = ("n_random", "null_mean", "null_min", "null_max", "p_value")


@dataclass(frozen=True)
class Column:
    """A column of a table; an interval is three columns, a random baseline five.

    Attributes:
        name: As in the table.
        kind: ``interval``: an ``Estimate`` or None, in columns ``x``, ``x_low`` and ``x_high``.
            ``random``: a ``RandomBaseline`` or None.
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
        if self.kind == "random":
            return dict.fromkeys(_RANDOM, pl.Float64) | {"n_random": pl.Int64}
        return {self.name: _TYPES[self.kind]}

    def flat(self, value: Any) -> dict[str, Any]:
        """The value of a row in the columns of the file."""
        if self.kind not in ("interval", "random"):
            return {self.name: value}
        if value is None:
            return dict.fromkeys(self.schema)
        if self.kind == "interval":
            if isinstance(value, float):  # no interval is known
                return dict.fromkeys(self.schema) | {self.name: value}
            return value.columns(self.name)
        return dict(zip(_RANDOM, astuple(value), strict=True))

    def whole(self, row: Row) -> Any:
        """The value of a row whose columns are those of the file."""
        if self.kind == "interval":
            return Estimate.of(row, self.name)
        if self.kind == "random":
            found = [row[name] for name in _RANDOM]
            return None if found[0] is None else RandomBaseline(*found)
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
RANDOM = Column("random", "random")


@dataclass(frozen=True)
class Section:
    """A section of the report for one table.

    Attributes:
        title: Heading.
        caption: What the drawing shows, in a sentence or two.
        part: Which part of the page it stands in.
    """

    title: str
    caption: str
    part: str = "further"


@dataclass(frozen=True)
class Analysis:
    """A table of a run: one entry of ``ANALYSES``.

    Attributes:
        name: The table is ``tables/<name>.parquet``.
        about: What a row is, for the reference; Markdown.
        columns: In the table's order.
        reads: Groups of jobs whose artifacts the rows are made from, such as ``scores``; see
            ``pipeline.plan``. Of another table: ``table <name>``.
        rows: Makes the rows, with a value for each column; intervals are ``Estimate`` values.
        subject: Heading of its sentences in the report.
        section: Its section of the report. None: titled by its name, drawn as its columns say.
        shown_in: The part of the page that shows it already; empty if it has a section.
        sentences: Words the rows of one fine-tune for the verdict.
        settings: Sections of the experiment that the rows depend on.
        version: Raised by one if the same inputs give other rows, and no constant says so.
    """

    name: str
    about: str
    columns: tuple[Column, ...]
    reads: tuple[str, ...]
    rows: Callable[[RunData], Iterable[Row]]
    subject: Subject
    section: Section | None = None
    shown_in: str = ""
    sentences: Callable[[Context, Sequence[Row]], Iterator[Evidence]] | None = None
    settings: tuple[str, ...] = ("compare",)
    version: int = 1

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The table's columns, with their types."""
        return {name: kind for column in self.columns for name, kind in column.schema.items()}

    def flat(self, row: Row) -> Row:
        """A row, or the part of one that is known, with each interval in its three columns."""
        known = {column.name: column for column in self.columns}
        if unknown := row.keys() - known.keys():
            raise KeyError(f"{self.name}: columns differ: {sorted(unknown)}")
        return {k: v for name, value in row.items() for k, v in known[name].flat(value).items()}

    def whole(self, row: Row) -> Row:
        """The reverse of :meth:`flat`."""
        return {c.name: c.whole(row) for c in self.columns if row.keys() >= c.schema.keys()}

    def table(self, rows: Iterable[Row]) -> pl.DataFrame:
        """Make the table.

        Raises:
            KeyError: If a row lacks a column or has one more.
        """
        found = [self.flat(row) for row in rows]
        for row in found:
            if row.keys() != self.schema.keys():
                raise KeyError(f"{self.name}: columns differ: {sorted(row.keys() ^ self.schema)}")
        return pl.DataFrame(found, schema=self.schema)

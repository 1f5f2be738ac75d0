"""What an analysis is: a table, what it is made from, and how a page and a verdict use it.

One entry says all of it. The schema of the table, its job and the key of that job, its section of
the report, its sentences in the verdict and its page in the reference follow from the entry.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import polars as pl

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import GraphShape
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, family_mean, load_about, load_arrays
from circuitlapse.records.columns import Column, Row
from circuitlapse.records.store import Store

Subject = Literal[
    "Behaviour",
    "Circuit structure",
    "Function",
    "Weights",
    "Time",
    "Context",
]
"""Headings under which the report sorts the verdict's sentences."""


class RunData:
    """What a run has measured, read with its hashes checked.

    Attributes:
        store: The run's artifacts.
        experiment: What was run.
    """

    def __init__(self, store: Store, experiment: Experiment) -> None:
        """Open the scores of a run; nothing is read yet."""
        self.store, self.experiment = store, experiment
        self.at = lru_cache(maxsize=8)(self._at)
        self._about = lru_cache(maxsize=None)(self._about_task)

    @property
    def tasks(self) -> tuple[str, str]:
        """The old and the new task."""
        return self.experiment.tasks.old, self.experiment.tasks.new

    @property
    def last(self) -> int:
        """The last step."""
        return self.experiment.steps()[-1]

    @cached_property
    def graph(self) -> GraphShape:
        """The graph that all checkpoints share."""
        first = layout.scores(self.experiment.training_runs()[0].name, 0, self.tasks[0])
        return GraphShape(**load_about(self.store.read(first))["graph"])

    def _at(self, training_run: str, step: int, task: str) -> Arrays:
        return load_arrays(self.store.read(layout.scores(training_run, step, task)))

    def _about_task(self, task: str) -> dict[str, Any]:
        training_runs = (
            self.experiment.training_runs()
            if task in self.tasks
            else self.experiment.control_runs()
        )
        return load_about(self.store.read(layout.scores(training_runs[0].name, 0, task)))

    def families(self, task: str) -> dict[str, list[str]]:
        """The variants of each of a task's counterfactual types."""
        return self._about(task)["families"]

    def invariance(self, task: str) -> list[str]:
        """The changes of a task's prompts that leave the answer as it is."""
        return self._about(task)["invariance"]

    def family(self, training_run: str, step: int, task: str, name: str, family: str) -> np.ndarray:
        """Array ``name`` averaged over the variants of a counterfactual type."""
        return family_mean(self.at(training_run, step, task), name, self.families(task)[family])

    def table(self, name: str, training_run: TrainingRun) -> list[Row]:
        """The rows of a table that is there already, of one fine-tune."""
        wanted = [pl.col(column) == value for column, value in self.names(training_run).items()]
        content = self.store.read(f"tables/{name}.parquet")
        return pl.read_parquet(content).filter(*wanted).to_dicts()

    def rows(self, name: str) -> list[Row]:
        """Table rows that a job wrote as JSON, without the columns that name the run."""
        return json.loads(self.store.read(name))

    def names(self, training_run: TrainingRun) -> Row:
        """The columns that say which fine-tune of which base a row is about."""
        return {
            "base_seed": self.experiment.base.seed,
            "recipe": training_run.recipe,
            "finetune_seed": training_run.seed,
        }

    def checkpoints(self) -> Iterator[tuple[Row, Arrays]]:
        """Every measured (training_run, step, task) with the columns that name it."""
        for training_run in self.experiment.training_runs():
            for step in self.experiment.steps():
                for task in self.tasks:
                    names = {**self.names(training_run), "step": step, "task": task}
                    yield names, self.at(training_run.name, step, task)


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

"""What a run has measured, as the analyses read it."""

import json
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import GraphShape
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, family_mean, load_about, load_arrays
from circuitlapse.records.store import Store

Row = dict[str, Any]


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

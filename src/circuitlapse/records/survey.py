"""What models do by themselves: a survey's figures, as one JSON document."""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from circuitlapse.stats.intervals import Estimate

PROMPTS = 240
"""Asked of each task by default: all orders of two or three people come equally often."""

Mark = Literal["mastered", "partial", "failed"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskFigures(_Document):
    """How a model does one task.

    Attributes:
        task: Name of the task.
        prompts: How many prompts were asked.
        chance: Accuracy among candidates of one who picks any candidate.
        accuracy: Share of prompts whose answer leads the whole vocabulary.
        candidate_accuracy: Share of prompts whose answer leads the distractors.
        logit_diff: Answer minus the distractors' mean, in logits; in nats where words have several
            tokens.
        mark: What ``candidate_accuracy`` amounts to.
    """

    task: str
    prompts: int
    chance: float
    accuracy: Estimate
    candidate_accuracy: Estimate
    logit_diff: Estimate
    mark: Mark


class LeftOut(_Document):
    """A task that could not be asked, or a model that could not be loaded, and why."""

    name: str
    reason: str


class TaskPair(_Document):
    """An old task that a model does and a new one that it does not, worth an experiment.

    Attributes:
        old: The old task.
        new: The new task.
        distance: How far apart in form they are; see :mod:`circuitlapse.api.task_screening`.
        families: Counterfactuals that both have, under which their circuits can be compared.
    """

    old: str
    new: str
    distance: float
    families: list[str]


class ModelSurvey(_Document):
    """One model's part of a survey.

    Attributes:
        model: The model, as it was asked for.
        parameters: How many it has.
        tasks: Figures, the best mark first and the highest accuracy among candidates first.
        left_out: Tasks that cannot be asked of it.
        pairs: Pairs worth an experiment, the nearest in form first.
    """

    model: str
    parameters: int
    tasks: list[TaskFigures]
    left_out: list[LeftOut]
    pairs: list[TaskPair]

    def figures(self, task: str) -> TaskFigures | None:
        """Return the figures of a task; None where it was left out."""
        return next((each for each in self.tasks if each.task == task), None)


class Survey(_Document):
    """Which models do which tasks by themselves.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        circuitlapse: Version of this package.
        split: Split of the prompts.
        prompts: Prompts asked for per task; a task of one's own may hold fewer.
        seed: What drew them.
        criteria: What the marks and the pairs mean, in words.
        models: In the order in which they were asked for.
        left_out: Models that could not be surveyed.
        smallest: For every task the model with fewest parameters that masters it; null for none.
    """

    schema_version: Literal[1] = 1
    circuitlapse: str
    split: str
    prompts: int
    seed: int
    criteria: str
    models: list[ModelSurvey]
    left_out: list[LeftOut]
    smallest: dict[str, str | None]

    def to_frame(self) -> pl.DataFrame:
        """Return one row for each model and task, intervals as columns ``_low`` and ``_high``."""
        rows = []
        for model in self.models:
            for figures in model.tasks:
                row = {"model": model.model, "parameters": model.parameters}
                for name, value in figures:
                    row[name] = value
                    if isinstance(value, Estimate):
                        row |= value.columns(name)
                rows.append(row)
        return pl.DataFrame(rows)

"""What shortcuts reach on the held-out prompts, and how far the tuned model is ahead of them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from circuitlapse.analyses.data import Row, RunData, spread
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays
from circuitlapse.records.figures import Figures, flagged
from circuitlapse.records.items import read_items, shortcut_hits
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval


def behaviour_rows(names: Row, arrays: Arrays) -> Iterator[Row]:
    """Accuracy, accuracy among the names and logit difference of one checkpoint on one task."""
    for split in ("test", "test_templates"):
        values = {
            q: arrays[f"behaviour.{split}.{q}"]
            for q in ("correct", "candidate_correct", "logit_diff")
        }
        n = len(values["correct"])
        yield {
            **names,
            "split": split,
            "n": n,
            **spread("accuracy", proportion_interval(int(values["correct"].sum()), n)),
            **spread(
                "candidate_accuracy", proportion_interval(int(values["candidate_correct"].sum()), n)
            ),
            **spread("logit_diff", mean_interval(values["logit_diff"])),
        }


def rise_over(base: Arrays, arrays: Arrays, split: str) -> Estimate:
    """By how much the logit difference is above the base's, on the same prompts of one task."""
    metric = f"behaviour.{split}.logit_diff"
    return mean_interval(arrays[metric].astype(np.float64) - base[metric])


def task_rows(scores: RunData) -> list[Row]:
    """Make the table ``behaviour``."""
    return [row for found in scores.checkpoints() for row in behaviour_rows(*found)]


def placebo_rows(scores: RunData) -> list[Row]:
    """Make the table ``placebo``."""
    rows: list[Row] = []
    base = {
        task: scores.at(scores.experiment.training_runs()[0].name, 0, task) for task in scores.tasks
    }
    for recipe in scores.experiment.finetune.recipes():
        for placebo in scores.experiment.placebos(recipe):
            for task in scores.tasks:
                arrays = scores.at(placebo.name, scores.last, task)
                names = {**scores.names(TrainingRun(recipe, placebo.seed)), "step": scores.last}
                for row in behaviour_rows({**names, "task": task}, arrays):
                    rise = rise_over(base[task], arrays, row["split"])
                    rows.append({"placebo": placebo.kind, **row, **spread("rise", rise)})
    return rows


def invariance_rows(scores: RunData) -> list[Row]:
    """Make the table ``invariance``."""
    rows = []
    for names, arrays in scores.checkpoints():
        for check in scores.invariance(names["task"]):
            effect = arrays[f"invariance.{check}"]
            rows.append(
                {
                    **names,
                    "check": check,
                    "n": len(effect),
                    **spread("effect", mean_interval(effect)),
                    **spread("mean_abs_effect", mean_interval(np.abs(effect))),
                }
            )
    return rows


SPLITS = ("test", "test_templates")


@dataclass(frozen=True)
class Shortcut:
    """One rule on the prompts of one task and split.

    Attributes:
        split: ``test`` or ``test_templates``.
        rule: Such as ``last mentioned``.
        n: How many prompts.
        accuracy: How often the rule is right, with Wilson's interval.
        margin: The tuned model's accuracy among the candidates minus the rule's, on the same
            prompts, with Student's t interval of the paired difference.
    """

    split: str
    rule: str
    n: int
    accuracy: Estimate
    margin: Estimate


def shortcuts_of(scores: RunData, training_run: TrainingRun, task: str) -> Iterator[Shortcut]:
    """Score every rule on a task's held-out prompts, beside a fine-tune's last checkpoint."""
    arrays = scores.at(training_run.name, scores.last, task)
    for split in SPLITS:
        model = arrays[f"behaviour.{split}.candidate_correct"].astype(float)
        items = read_items(scores.store.read(layout.prompts(task, split)))[: len(model)]
        for rule, hits in shortcut_hits(items).items():
            right = proportion_interval(int(hits.sum()), len(hits))
            yield Shortcut(split, rule, len(hits), right, mean_interval(model - hits))


def shortcut_rows(scores: RunData) -> list[Row]:
    """The table ``shortcuts``."""
    return [
        {
            **scores.names(training_run),
            "step": scores.last,
            "task": task,
            "split": found.split,
            "rule": found.rule,
            "n": found.n,
            **spread("accuracy", found.accuracy),
            **spread("margin", found.margin),
        }
        for training_run in scores.experiment.training_runs()
        for task in scores.tasks
        for found in shortcuts_of(scores, training_run, task)
    ]


def training_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``training``: how every fine-tune went, with the traps that show.

    A fine-tune that came to nothing is here as far as it went.
    """
    rows, experiment = [], scores.experiment
    left = experiment.training_runs()
    for training_run in experiment.finetune.training_runs() if not experiment.checkpoints else ():
        name = layout.training(training_run.name)
        if training_run not in left and not scores.store.record(name):
            continue
        written = json.loads(scores.store.read(name))
        for figures, flags in flagged([Figures(**each) for each in written], scores.last):
            rows.append({**scores.names(training_run), **asdict(figures), "flags": flags})
    return rows

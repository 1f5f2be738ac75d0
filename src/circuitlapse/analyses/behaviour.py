"""How well each checkpoint does each task, compared with placebos and shortcuts."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.arrays import Arrays
from circuitlapse.records.columns import STEP, TASK, TRAINING_RUN, Row, integer, interval, text
from circuitlapse.records.items import read_items, shortcut_hits
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.verdict.gain import measured_gain


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
            "accuracy": proportion_interval(int(values["correct"].sum()), n),
            "candidate_accuracy": proportion_interval(int(values["candidate_correct"].sum()), n),
            "logit_diff": mean_interval(values["logit_diff"]),
        }


def rise_over(base: Arrays, arrays: Arrays, split: str) -> Estimate:
    """By how much the logit difference is above the base's, on the same prompts of one task."""
    metric = f"behaviour.{split}.logit_diff"
    return mean_interval(arrays[metric].astype(np.float64) - base[metric])


def task_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``behaviour``."""
    rows, base = [], _base(scores)
    for names, arrays in scores.checkpoints():
        for row in behaviour_rows(names, arrays):
            first, now = (answers(each, row["split"]) for each in (base[names["task"]], arrays))
            gain = measured_gain(first, now)
            rows.append(row | {f"{name}_rise": rise for name, rise in vars(gain).items()})
    return rows


def _base(scores: RunData) -> dict[str, Arrays]:
    """What was measured of the base, by task."""
    name = scores.experiment.training_runs()[0].name
    return {task: scores.at(name, 0, task) for task in scores.tasks}


def answers(arrays: Arrays, split: str) -> Behaviour:
    """The answers of one checkpoint to the prompts of one task and split."""
    parts = (each.name for each in fields(Behaviour))
    return Behaviour(**{part: arrays[f"behaviour.{split}.{part}"] for part in parts})


def placebo_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``placebo``."""
    rows: list[Row] = []
    base = _base(scores)
    for recipe in scores.experiment.finetune.recipes():
        for placebo in scores.experiment.placebos(recipe):
            for task in scores.tasks:
                arrays = scores.at(placebo.name, scores.last, task)
                names = {**scores.names(TrainingRun(recipe, placebo.seed)), "step": scores.last}
                for row in behaviour_rows({**names, "task": task}, arrays):
                    rise = rise_over(base[task], arrays, row["split"])
                    rows.append({"placebo": placebo.kind, **row, "rise": rise})
    return rows


def invariance_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``invariance``."""
    rows = []
    for names, arrays in scores.checkpoints():
        for check in scores.invariance(names["task"]):
            if f"invariance.{check}" not in arrays:
                continue
            effect = arrays[f"invariance.{check}"]
            rows.append(
                {
                    **names,
                    "check": check,
                    "n": len(effect),
                    "effect": mean_interval(effect),
                    "mean_abs_effect": mean_interval(np.abs(effect)),
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
    """Score every rule on a task's held-out prompts, next to a fine-tune's last checkpoint."""
    arrays = scores.at(training_run.name, scores.last, task)
    for split in SPLITS:
        model = arrays[f"behaviour.{split}.candidate_correct"].astype(float)
        items = read_items(scores.store.read(layout.prompts(task, split)))[: len(model)]
        for rule, hits in shortcut_hits(items).items():
            right = proportion_interval(int(hits.sum()), len(hits))
            yield Shortcut(split, rule, len(hits), right, mean_interval(model - hits))


def shortcut_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``shortcuts``."""
    return [
        {
            **scores.names(training_run),
            "step": scores.last,
            "task": task,
            "split": found.split,
            "rule": found.rule,
            "n": found.n,
            "accuracy": found.accuracy,
            "margin": found.margin,
        }
        for training_run in scores.experiment.training_runs()
        for task in scores.tasks
        for found in shortcuts_of(scores, training_run, task)
    ]


_SPLIT = text("split", "`test` or `test_templates`")
_ANSWERS = (
    *TRAINING_RUN,
    STEP,
    TASK,
    _SPLIT,
    integer("n", "prompts"),
    interval("accuracy", "over the whole vocabulary; a tie counts as wrong"),
    interval("candidate_accuracy", "over the candidates of the prompt"),
    interval("logit_diff", "in logits"),
)
BEHAVIOUR = Analysis(
    "behaviour",
    "One row per step, task and `split`: `test` (held-out name pairs in known templates) or "
    "`test_templates` (both held out).",
    (
        *_ANSWERS,
        interval("logits_rise", "rise of the logit difference over the base's, in logits"),
        interval("accuracy_rise", "rise of the candidate accuracy over the base's"),
        interval(
            "standardised_rise",
            "rise of the logit difference in units of the logits' standard deviation over the "
            "vocabulary",
        ),
    ),
    ("scores",),
    task_rows,
    "Behaviour",
    shown_in="learning",
)
PLACEBO = Analysis(
    "placebo",
    "The columns of `behaviour` for each placebo, at its last step. `finetune_seed` is the "
    "placebo's own.",
    (
        text("placebo", "which [control fine-tune](../how-to/controls.md)"),
        *_ANSWERS,
        interval("rise", "rise of the logit difference over the base's, in logits"),
    ),
    ("scores", "placebo_scores"),
    placebo_rows,
    "Behaviour",
    shown_in="placebo",
)
SHORTCUTS = Analysis(
    "shortcuts",
    "One row per task, `split` and rule, at the last step. A shortcut is a rule that needs no "
    "understanding, such as the first listed name.",
    (
        *TRAINING_RUN,
        STEP,
        TASK,
        _SPLIT,
        text("rule", "the shortcut"),
        integer("n", "prompts"),
        interval("accuracy", "of the rule, over the candidates"),
        interval("margin", "candidate accuracy of the tuned model minus the rule's, same prompts"),
    ),
    ("scores",),
    shortcut_rows,
    "Behaviour",
    Section(
        "Accuracy of shortcuts",
        "Accuracy over the candidates of the fine-tuned model, of the base, and of shortcut "
        "heuristics on the same held-out prompts, with 95 % intervals.",
        "method",
    ),
)
INVARIANCE = Analysis(
    "invariance",
    "One row per step, task and check where a step is measured in full: a change of the prompt "
    "that must not change the answer.",
    (
        *TRAINING_RUN,
        STEP,
        TASK,
        text("check", "the change of the prompt"),
        integer("n", "prompts"),
        interval("effect", "signed mean of the metric's change; 0 for any model, by balance"),
        interval("mean_abs_effect", "mean absolute change of the metric, in logits"),
    ),
    ("scores",),
    invariance_rows,
    "Function",
    shown_in="invariance",
)

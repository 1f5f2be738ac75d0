"""What shortcuts reach on the held-out prompts, and how far the tuned model is ahead of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from circuitlapse.config import Arm
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.prompts import read_items
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.records import Estimate
from circuitlapse.records.intervals import mean_interval, proportion_interval
from circuitlapse.tasks.shortcuts import shortcut_hits

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


def shortcuts_of(scores: Scores, arm: Arm, task: str) -> Iterator[Shortcut]:
    """Score every rule on a task's held-out prompts, beside a fine-tune's last checkpoint."""
    arrays = scores.at(arm.name, scores.last, task)
    for split in SPLITS:
        model = arrays[f"behaviour.{split}.correct_among"].astype(float)
        items = read_items(scores.store.read(plan.prompts(task, split)))[: len(model)]
        for rule, hits in shortcut_hits(items).items():
            right = proportion_interval(int(hits.sum()), len(hits))
            yield Shortcut(split, rule, len(hits), right, mean_interval(model - hits))


def shortcut_rows(scores: Scores) -> list[Row]:
    """The table ``shortcuts``."""
    return [
        {
            **scores.names(arm), "step": scores.last, "task": task, "split": found.split,
            "rule": found.rule, "n": found.n, **spread("accuracy", found.accuracy),
            **spread("margin", found.margin),
        }
        for arm in scores.experiment.arms()
        for task in scores.tasks
        for found in shortcuts_of(scores, arm, task)
    ]  # fmt: skip

"""What must hold before the question "elicited, transformed or formed?" means anything.

Each check compares an end of a 95 % interval with a threshold, so that too few prompts fail it
rather than pass it. The thresholds stand in :mod:`circuitlapse.verdict.thresholds`.

What the verdict's sentences and checks are about, and which rows they can be checked against.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuitlapse.records.documents import Precondition
from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict.thresholds import (
    NEW_LEARNT,
    NEW_NOT_MASTERED,
    OLD_MASTERED,
    PLACEBO_LARGEST_SHARE,
)

PLACEBO_CHECK = "The placebo did not improve"

OLD_TASK_DONE = "The base does the old task"


@dataclass(frozen=True)
class Findings:
    """The figures that the verdict's preconditions are about.

    Accuracies are among the names listed in the prompt, on held-out name pairs.

    Attributes:
        base_old: Accuracy of the base on the old task.
        base_new: Accuracy of the base on the new task.
        tuned_old: Accuracy of the tuned model on the old task.
        tuned_new: Accuracy of the tuned model on the new task.
        tuned_new_templates: The same on held-out templates.
        candidates: How many names a prompt of the new task lists; chance is one in so many.
        old_difference: Clean minus corrupt logit difference of the base on the old task, in logits.
        placebo_gain: Rise of the new task's logit difference in the placebo; None if none was run.
        shortcuts: By rule and split, how far the tuned model's accuracy on the new task is ahead of
            what a rule without understanding reaches on the same prompts.
    """

    base_old: Estimate
    base_new: Estimate
    tuned_old: Estimate
    tuned_new: Estimate
    tuned_new_templates: Estimate
    candidates: int
    old_difference: Estimate
    placebo_gain: Estimate | None
    shortcuts: Mapping[tuple[str, str], Estimate]


@dataclass(frozen=True)
class Context:
    """One fine-tune.

    Attributes:
        old: Name of the old task.
        new: Name of the new task.
        counterfactual: Family under which overlap and changes were measured.
        step: The tuned model's training step.
        seeds: Columns that pick the run: base_seed, recipe and finetune_seed.
        placebo: Name of the placebo in its table.
    """

    old: str
    new: str
    counterfactual: str
    step: int
    seeds: Mapping[str, int | str]
    placebo: str | None = None

    def where(self, **columns: str | int) -> dict[str, str | int]:
        """Column values that pick rows of this run from a table."""
        return {**self.seeds, **columns}


def check_preconditions(
    findings: Findings, improvement: Estimate, context: Context | None = None
) -> list[Precondition]:
    """Check everything, in the order in which a reader would ask.

    Args:
        findings: What was measured besides the grafts.
        improvement: G, the rise of the new task's logit difference, in logits.
        context: The run whose tables have the rows behind the checks, if there is one.
    """
    chance = 1 / findings.candidates

    def answered(model: str, task: str, split: str = "test") -> dict[str, Any]:
        return _link(context, "behaviour", model, task, split=split)

    return [
        Precondition(
            name=OLD_TASK_DONE,
            holds=findings.base_old.low >= OLD_MASTERED,
            detail=f"accuracy {percent(findings.base_old)}; the interval must reach down to no "
            f"less than {100 * OLD_MASTERED:.0f} %",
            **answered("base", "old"),
        ),
        Precondition(
            name="The base does not yet do the new task",
            holds=findings.base_new.high <= NEW_NOT_MASTERED,
            detail=f"accuracy {percent(findings.base_new)}; the interval must stay at or below "
            f"{100 * NEW_NOT_MASTERED:.0f} %",
            **answered("base", "new"),
        ),
        Precondition(
            name="The counterfactual breaks the old task in the base",
            holds=findings.old_difference.low > 0,
            detail=f"clean minus corrupt {logits(findings.old_difference)}; must be above zero",
            **_broken(context),
        ),
        Precondition(
            name="There is an improvement",
            holds=improvement.low > 0,
            detail=f"G {logits(improvement)}; must be above zero",
            **_gained(context),
        ),
        Precondition(
            name="The new task was learnt",
            holds=findings.tuned_new.low >= NEW_LEARNT,
            detail=f"accuracy {percent(findings.tuned_new)} on held-out names; the interval must "
            f"reach down to no less than {100 * NEW_LEARNT:.0f} %",
            **answered("tuned", "new"),
        ),
        Precondition(
            name="It carries over to held-out templates",
            holds=findings.tuned_new_templates.low > chance,
            detail=f"accuracy {percent(findings.tuned_new_templates)}; the interval must lie "
            f"above chance, {100 * chance:.0f} %",
            **answered("tuned", "new", "test_templates"),
        ),
        _shortcuts(findings.shortcuts, context),
        _placebo(findings.placebo_gain, improvement, context),
    ]


def _link(
    context: Context | None, table: str, model: str, task: str, **where: str
) -> dict[str, Any]:
    """Name the rows behind a check; nothing where there is no run."""
    if context is None:
        return {}
    step = 0 if model == "base" else context.step
    named = context.old if task == "old" else context.new
    return {"table": table, "where": context.where(step=step, task=named, **where)}


def _broken(context: Context | None) -> dict[str, Any]:
    """Name the rows that have the whole model's metric on clean and on corrupt prompts."""
    if context is None:
        return {}
    return _link(context, "faithfulness", "base", "old", counterfactual=context.counterfactual)


def _gained(context: Context | None) -> dict[str, Any]:
    """Name the row that has G: where no head is held, all of the improvement is left."""
    if context is None:
        return {}
    where = context.where(step=context.step, group="all heads")
    return {"table": "mediation", "where": where}


def _shortcuts(
    margins: Mapping[tuple[str, str], Estimate], context: Context | None
) -> Precondition:
    (rule, split), margin = min(margins.items(), key=lambda found: found[1].low)
    where = {"test": "names", "test_templates": "templates"}[split]
    points = [round(100 * end) for end in (margin.value, margin.low, margin.high)]
    return Precondition(
        name="It is ahead of every shortcut",
        holds=margin.low > 0,
        detail="by {} points [{}, {}] ".format(*points)
        + f"of “{rule}” on held-out {where}, the closest; must be above zero",
        **_link(context, "shortcuts", "tuned", "new", split=split, rule=rule),
    )


def _placebo(
    placebo: Estimate | None, improvement: Estimate, context: Context | None
) -> Precondition:
    if placebo is None:
        return Precondition(name=PLACEBO_CHECK, holds=False, detail="no placebo was run")
    allowed = PLACEBO_LARGEST_SHARE * max(improvement.value, 0.0)
    own = {"placebo": context.placebo} if context is not None and context.placebo else {}
    return Precondition(
        name=PLACEBO_CHECK,
        holds=placebo.high <= allowed or placebo.high <= 0,
        detail=f"{logits(placebo)} on the new task; the interval must stay at or below "
        f"{100 * PLACEBO_LARGEST_SHARE:.0f} % of G, {allowed:.2f}",
        **_link(context, "placebo", "tuned", "new", split="test", **own),
    )


def percent(estimate: Estimate) -> str:
    """Write a proportion with its interval, in percent."""
    value, low, high = (round(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"


def logits(estimate: Estimate) -> str:
    """Write an estimate in logits with its interval."""
    return estimate.text(unit=" logits")

"""Preconditions of the question "elicited, transformed or formed?", with their tables and rows.

Each check compares an end of a 95 % interval with a threshold, so that too few prompts fail it. The
thresholds are in :mod:`circuitlapse.verdict.thresholds`.
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

SHORTCUT_CHECK = "No shortcut heuristic does as well"

OLD_TASK_DONE = "The base solves the old task"


@dataclass(frozen=True)
class Findings:
    """The figures of the preconditions.

    Accuracies are over the candidates, on held-out name pairs.

    Attributes:
        tuned_new_templates: Accuracy of the tuned model on held-out templates of the new task.
        candidates: Number of candidates of a new-task prompt; chance is its inverse.
        old_difference: Clean minus corrupt logit difference of the base on the old task, in logits.
        placebo_gain: Rise of the new task's logit difference in the placebo; None without one.
        shortcuts: By rule and split, accuracy of the tuned model on the new task minus that of the
            shortcut heuristic on the same prompts.
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
        counterfactual: Counterfactual type of overlap and head changes.
        step: Training step of the tuned model.
        seeds: Columns of the run: base_seed, recipe and finetune_seed.
        placebo: Name of the placebo in its table.
    """

    old: str
    new: str
    counterfactual: str
    step: int
    seeds: Mapping[str, int | str]
    placebo: str | None = None

    def where(self, **columns: str | int) -> dict[str, str | int]:
        """Return column values that select rows of this run."""
        return {**self.seeds, **columns}


def check_preconditions(
    findings: Findings, improvement: Estimate, context: Context | None = None
) -> list[Precondition]:
    """Return all preconditions; ``context`` is the run whose tables have their rows."""
    chance = 1 / findings.candidates

    def answered(model: str, task: str, split: str = "test") -> dict[str, Any]:
        return _link(context, "behaviour", model, task, split=split)

    return [
        Precondition(
            name=OLD_TASK_DONE,
            holds=findings.base_old.low >= OLD_MASTERED,
            detail=f"accuracy {percent(findings.base_old)}; the interval must be at or "
            f"above {100 * OLD_MASTERED:.0f} %",
            **answered("base", "old"),
        ),
        Precondition(
            name="The base does not yet solve the new task",
            holds=findings.base_new.high <= NEW_NOT_MASTERED,
            detail=f"accuracy {percent(findings.base_new)}; the interval must be at or below "
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
            **_improved(context),
        ),
        Precondition(
            name="The tuned model solves the new task",
            holds=findings.tuned_new.low >= NEW_LEARNT,
            detail=f"accuracy {percent(findings.tuned_new)} on held-out names; the interval must "
            f"be at or above {100 * NEW_LEARNT:.0f} %",
            **answered("tuned", "new"),
        ),
        Precondition(
            name="It also solves held-out templates",
            holds=findings.tuned_new_templates.low > chance,
            detail=f"accuracy {percent(findings.tuned_new_templates)}; the interval must be "
            f"above chance, {100 * chance:.0f} %",
            **answered("tuned", "new", "test_templates"),
        ),
        _shortcuts(findings.shortcuts, context),
        *_placebo(findings.placebo_gain, improvement, context),
    ]


def _link(
    context: Context | None, table: str, model: str, task: str, **where: str
) -> dict[str, Any]:
    """Rows of a check; nothing without a run."""
    if context is None:
        return {}
    step = 0 if model == "base" else context.step
    named = context.old if task == "old" else context.new
    return {"table": table, "where": context.where(step=step, task=named, **where)}


def _broken(context: Context | None) -> dict[str, Any]:
    """Rows with the whole model's metric on clean and corrupted prompts."""
    if context is None:
        return {}
    return _link(context, "faithfulness", "base", "old", counterfactual=context.counterfactual)


def _improved(context: Context | None) -> dict[str, Any]:
    """Row with G."""
    return _link(context, "behaviour", "tuned", "new", split="test")


def _shortcuts(
    margins: Mapping[tuple[str, str], Estimate], context: Context | None
) -> Precondition:
    (rule, split), margin = min(margins.items(), key=lambda found: found[1].low)
    where = {"test": "names", "test_templates": "templates"}[split]
    points = [round(100 * end) for end in (margin.value, margin.low, margin.high)]
    return Precondition(
        name=SHORTCUT_CHECK,
        holds=margin.low > 0,
        detail="{} points [{}, {}] better ".format(*points)
        + f"than “{rule}”, the best shortcut, on held-out {where}; must be above zero",
        **_link(context, "shortcuts", "tuned", "new", split=split, rule=rule),
    )


def _placebo(
    placebo: Estimate | None, improvement: Estimate, context: Context | None
) -> list[Precondition]:
    if placebo is None:
        return []
    allowed = PLACEBO_LARGEST_SHARE * max(improvement.value, 0.0)
    own = {"placebo": context.placebo} if context is not None and context.placebo else {}
    return [
        Precondition(
            name=PLACEBO_CHECK,
            holds=placebo.high <= allowed or placebo.high <= 0,
            detail=f"{logits(placebo)} on the new task; the interval must be at or below "
            f"{100 * PLACEBO_LARGEST_SHARE:.0f} % of G, {allowed:.2f}",
            **_link(context, "placebo", "tuned", "new", split="test", **own),
        )
    ]


def percent(estimate: Estimate) -> str:
    """Write a proportion with its interval, in percent."""
    value, low, high = (round(100 * x) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} % [{low}, {high}]"


def logits(estimate: Estimate) -> str:
    """Write an estimate in logits with its interval."""
    return estimate.text(unit=" logits")

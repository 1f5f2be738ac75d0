"""The tables ``head_changes`` and ``carriers``: what heads do before and after fine-tuning.

``head_changes`` has the category of each head, ``carriers`` what sets of heads bring.
"""

from collections.abc import Collection

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.analyses.dynamics import dated, exact_steps
from circuitlapse.analyses.roles import RolesOf
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_changes import HeadChange, HeadEffects, head_changes, used_threshold
from circuitlapse.records.columns import (
    COUNTERFACTUAL,
    NODE,
    PLACE,
    STEP,
    TRAINING_RUN,
    Row,
    flag,
    integer,
    interval,
    real,
    text,
)


def changes_of(
    scores: RunData,
    training_run: TrainingRun,
    family: str,
    step: int,
    role_changed: Collection[str] = (),
) -> list[HeadChange] | None:
    """Decide every head's category from its effects on the test prompts, base and checkpoint.

    Returns:
        None where the base does not do the old task: no effect is then large or small.
    """
    old, new = scores.tasks
    columns = scores.graph.head_nodes

    def effects(name: str, at: int, task: str) -> np.ndarray:
        return scores.family(name, at, task, "effects", family)[:, columns]

    def placebos(task: str) -> np.ndarray | None:
        found = [
            effects(placebo.name, scores.last, task)
            for placebo in scores.experiment.placebos_for_noise_floor(training_run)
        ]
        return np.stack(found) if found else None

    measured = HeadEffects(
        heads=[scores.graph.nodes[index] for index in columns],
        base_old=effects(training_run.name, 0, old),
        base_new=effects(training_run.name, 0, new),
        tuned_old=effects(training_run.name, step, old),
        tuned_new=effects(training_run.name, step, new),
        placebo_old=placebos(old),
        placebo_new=placebos(new),
    )
    clean, corrupt = (
        scores.family(training_run.name, 0, old, name, family) for name in ("clean", "corrupt")
    )
    try:
        threshold = used_threshold(clean - corrupt)
    except CircuitlapseError:
        return None
    return head_changes(measured, threshold, role_changed)


def change_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``head_changes``, at every step; none if the base fails at the old task."""
    rows: list[Row] = []
    steps = exact_steps(scores.experiment)
    for training_run in scores.experiment.training_runs():
        roles = RolesOf(scores, training_run, scores.tasks[0])
        changed = {step: roles.changed(step) for step in steps}
        for family in scores.experiment.measure.counterfactuals:
            found = {
                step: changes_of(scores, training_run, family, step, changed[step])
                for step in steps
            }
            names = {**scores.names(training_run), "counterfactual": family}
            of_family = (
                {**names, "step": step, **vars(row)}
                for step, changes in found.items()
                for row in changes or []
            )
            rows += dated(of_family, "category")
    return rows


_SINCE = integer("since", "the step since which it holds without a break")
HEAD_CHANGES = Analysis(
    "head_changes",
    "One row per step, counterfactual and head.",
    (
        *TRAINING_RUN,
        STEP,
        COUNTERFACTUAL,
        NODE,
        *PLACE,
        text("category", "the [change category](../explanation/method.md)"),
        _SINCE,
        real("threshold", "smallest effect that counts as use, in logits"),
        flag("used_in_base", "whether the base uses the head on the old task"),
        flag("used_in_tuned", "whether base and tuned model use it on the old task"),
        interval("base_old", "effect in the base on the old task, in logits"),
        interval("base_new", "in the base on the new task"),
        interval("tuned_old", "in the tuned model on the old task"),
        interval("tuned_new", "in the tuned model on the new task"),
        interval("placebo_old", "mean over the placebos; null without one"),
        interval("placebo_new", "the same on the new task"),
    ),
    ("scores", "placebo_scores"),
    change_rows,
    "Function",
    shown_in="head_changes",
)

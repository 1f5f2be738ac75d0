"""The table ``dynamics``: when heads and behaviour changed."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.graph import head_of
from circuitlapse.heads.dynamics import (
    Change,
    behaviour_correlation,
    changes,
    epoch_ends,
    head_changes,
    steps_since,
)
from circuitlapse.records import layout
from circuitlapse.records.columns import (
    COUNTERFACTUAL,
    NODE,
    PLACE,
    STEP,
    TASK,
    TRAINING_RUN,
    Row,
    flag,
    integer,
    interval,
    real,
    text,
)
from circuitlapse.records.items import read_items

_FEWEST = 4  # checkpoints among which a change is dated
_METRIC = "behaviour.test.logit_diff"


def dynamics_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``dynamics``; none with fewer checkpoints than a change is dated among."""
    rows: list[Row] = []
    training_runs: dict[str, list[TrainingRun]] = {}
    for training_run in scores.experiment.training_runs():
        training_runs.setdefault(training_run.recipe, []).append(training_run)
    epoch = epoch_steps(scores)
    for task in scores.tasks:
        for of_recipe in training_runs.values():
            for training_run in of_recipe:
                rows += [
                    {**row, "epoch_steps": epoch} for row in _behaviour(scores, training_run, task)
                ]
            for family in scores.experiment.measure.counterfactuals:
                found = _heads(scores, of_recipe, task, family)
                rows += [{**row, "epoch_steps": epoch} for row in found]
    return rows


def epoch_steps(scores: RunData) -> int | None:
    """Optimiser steps in which every training item is seen once; None where nothing is trained."""
    experiment = scores.experiment
    if experiment.checkpoints:
        return None
    items = read_items(scores.store.read(layout.prompts(layout.FINETUNE, "train")))
    return epoch_ends(len(items), experiment.finetune.batch_size, len(items))[0]


def exact_steps(experiment: Experiment) -> list[int]:
    """Steps whose heads were patched exactly."""
    return [step for step in experiment.steps() if experiment.measures_in_full(step)]


def dated(rows: Iterable[Row], state: str) -> list[Row]:
    """Say since which step every head was without a break what it is at a row's step.

    Args:
        rows: Of one fine-tune, task and counterfactual, by rising step.
        state: The column that says what it is.
    """
    found = list(rows)
    heads: dict[str, list[Row]] = {}
    for row in found:
        heads.setdefault(row["node"], []).append(row)
    for own in heads.values():
        since = steps_since([row["step"] for row in own], [row[state] for row in own])
        for row, step in zip(own, since, strict=True):
            row["since"] = step
    return found


def _curve(
    scores: RunData, training_run: TrainingRun, task: str, steps: Sequence[int]
) -> np.ndarray:
    """Logit differences at each step, ``[steps, prompts]``."""
    return np.stack([scores.at(training_run.name, step, task)[_METRIC] for step in steps]).astype(
        float
    )


def _behaviour(scores: RunData, training_run: TrainingRun, task: str) -> Iterator[Row]:
    """The change of the task's own curve."""
    steps = scores.experiment.steps()
    if len(steps) < _FEWEST:
        return
    (found,) = changes(_curve(scores, training_run, task, steps)[..., None], steps)
    yield _row(scores, training_run, task, "", found)


def _heads(
    scores: RunData, training_runs: Sequence[TrainingRun], task: str, family: str
) -> Iterator[Row]:
    """The changes of all heads in every seed."""
    steps = exact_steps(scores.experiment)
    if len(steps) < _FEWEST:
        return
    columns = scores.graph.head_nodes
    found, together = [], []
    for training_run in training_runs:
        effects = np.stack(
            [
                scores.family(training_run.name, s, task, "effects", family)[:, columns]
                for s in steps
            ]
        )
        found.append(head_changes(effects, steps))
        behaviour = _curve(scores, training_run, task, steps).mean(axis=1)
        together.append(behaviour_correlation(effects, behaviour))
    seeds_with_sign_change = np.sum(
        [[change.sign_changed for change in of_run] for of_run in found], axis=0
    )
    for training_run, of_run, correlations in zip(training_runs, found, together, strict=True):
        for index, (column, change) in enumerate(zip(columns, of_run, strict=True)):
            place = head_of(name := scores.graph.nodes[column])
            yield {
                **_row(scores, training_run, task, family, change),
                "kind": "head",
                "node": name,
                "layer": place.layer if place else None,
                "head": place.head if place else None,
                "seeds_with_sign_change": int(seeds_with_sign_change[index]),
                "behaviour_correlation": correlations[index],
            }


def _row(scores: RunData, training_run: TrainingRun, task: str, family: str, found: Change) -> Row:
    """A row of the behaviour; a head's has more."""
    names = {
        **scores.names(training_run),
        "step": scores.last,
        "task": task,
        "counterfactual": family,
    }
    own = dict.fromkeys(("layer", "head", "seeds_with_sign_change", "behaviour_correlation"))
    about = {"kind": "behaviour", "node": "", **own}
    return {**names, **about, **vars(found)}


DYNAMICS = Analysis(
    "dynamics",
    "When things changed: one row per task, counterfactual and head, and one for the behaviour.",
    (
        *TRAINING_RUN,
        STEP,
        TASK,
        COUNTERFACTUAL,
        text("kind", "`head` or `behaviour`"),
        NODE,
        *PLACE,
        real("before", "effect, or logit difference, at the first checkpoint, in logits"),
        real("after", "the same at the last checkpoint"),
        interval("change", "the difference; these intervals hold for all heads together"),
        real("step_of_90", "step with 90 % of the change; null if its interval includes zero"),
        flag("sign_changed", "whether the sign changed beyond both intervals"),
        integer("seeds_with_sign_change", "in how many of the recipe's seeds"),
        real("behaviour_correlation", "with the behaviour over the checkpoints"),
        integer("epoch_steps", "steps in which every training item is seen once"),
    ),
    ("scores", "training_prompts"),
    dynamics_rows,
    "Time",
    Section(
        "When heads and behaviour changed",
        "Step at which the effect of each head has reached 90 % of its change from the first to "
        "the last checkpoint. Triangles point up for a rise and down for a fall. Their size shows "
        "the change, an outline a change of sign. Heads are left out where the 95 % interval of "
        "the change includes zero. Dashed: the behaviour. Dotted: epochs.",
        "time",
    ),
)

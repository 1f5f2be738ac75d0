"""The table ``dynamics``: when heads and behaviour changed, and whether seeds agree on it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from circuitlapse.compare.dynamics import (
    Agreement,
    HeadDynamics,
    epoch_ends,
    head_dynamics,
    seed_agreement,
    steps_since,
    steps_to_share,
)
from circuitlapse.config import Arm, Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.prompts import read_items
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.records.nodes import head_of

_FEWEST = 4  # checkpoints among which a change is dated
_METRIC = "behaviour.test.logit_diff"


def dynamics_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``dynamics``; none with fewer checkpoints than a change is dated among."""
    rows: list[Row] = []
    arms: dict[str, list[Arm]] = {}
    for arm in scores.experiment.arms():
        arms.setdefault(arm.recipe, []).append(arm)
    epoch = epoch_steps(scores)
    for task in scores.tasks:
        for of_recipe in arms.values():
            for arm in of_recipe:
                rows += [{**row, "epoch_steps": epoch} for row in _behaviour(scores, arm, task)]
            for family in scores.experiment.measure.corruptions:
                found = _heads(scores, of_recipe, task, family)
                rows += [{**row, "epoch_steps": epoch} for row in found]
    return rows


def epoch_steps(scores: Scores) -> int | None:
    """Optimiser steps in which every training item is seen once; None where nothing is trained."""
    experiment = scores.experiment
    if experiment.checkpoints:
        return None
    items = read_items(scores.store.read(plan.prompts(plan.FINETUNE, "train")))
    return epoch_ends(len(items), experiment.finetune.batch_size, len(items))[0]


def exact_steps(experiment: Experiment) -> list[int]:
    """Steps whose heads were patched exactly."""
    return [step for step in experiment.steps() if experiment.patches_at(step)]


def dated(rows: Iterable[Row], state: str) -> list[Row]:
    """Say since which step every head was without a break what it is at a row's step.

    Args:
        rows: Of one fine-tune, task and corruption, by rising step.
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


def _curve(scores: Scores, arm: Arm, task: str, steps: Sequence[int]) -> np.ndarray:
    """Logit differences at each step, ``[steps, prompts]``."""
    return np.stack([scores.at(arm.name, step, task)[_METRIC] for step in steps]).astype(float)


def _behaviour(scores: Scores, arm: Arm, task: str) -> Iterator[Row]:
    """The cut of the task's own curve."""
    steps = scores.experiment.steps()
    if len(steps) < _FEWEST:
        return
    curve = _curve(scores, arm, task, steps)
    seed = scores.experiment.compare.seed
    (cut,) = head_dynamics(curve[..., None], steps, [""], curve.mean(axis=1), seed=seed)
    yield {
        **_row(scores, arm, task, "", "behaviour"),
        **_cut(cut),
        "with_behaviour": None,
        "reached": steps_to_share(steps, curve),
    }


def _heads(scores: Scores, arms: Sequence[Arm], task: str, family: str) -> Iterator[Row]:
    """The cuts of all heads in every seed, and whether the seeds agree."""
    steps = exact_steps(scores.experiment)
    if len(steps) < _FEWEST:
        return
    columns = scores.graph.head_nodes
    heads = scores.graph.heads
    settings = scores.experiment.compare
    cuts: list[list[HeadDynamics]] = []
    curves: list[np.ndarray] = []
    for arm in arms:
        effects = np.stack(
            [scores.family(arm.name, s, task, "effects", family)[:, columns] for s in steps]
        )
        behaviour = _curve(scores, arm, task, steps).mean(axis=1)
        cuts.append(head_dynamics(effects, steps, heads, behaviour, seed=settings.seed))
        curves.append(effects)
    agreed = _agreement(cuts, settings.seed, settings.permutations)
    flipped_in = np.sum([[cut.flipped for cut in found] for found in cuts], axis=0)
    for arm, found, curve in zip(arms, cuts, curves, strict=True):
        for column, cut in enumerate(found):
            place = head_of(cut.head)
            yield {
                **_row(scores, arm, task, family, "head"),
                **_cut(cut),
                "node": cut.head,
                "layer": place.layer if place else None,
                "head": place.head if place else None,
                "flipped_in": int(flipped_in[column]),
                "reached": steps_to_share(steps, curve[..., column]),
            }
        if agreed is not None:
            yield {
                **_row(scores, arm, task, family, "seeds"),
                "agreement": agreed.value,
                "agreement_null": agreed.null_mean,
                "agreement_p": agreed.p_value,
                "flips": agreed.flips,
                "flips_null": agreed.flips_null_mean,
                "flips_p": agreed.flips_p_value,
            }


def _agreement(cuts: list[list[HeadDynamics]], seed: int, repeats: int) -> Agreement | None:
    """Compare the seeds; None where there is one, or a seed in which nothing changed."""
    if len(cuts) < 2:
        return None
    try:
        return seed_agreement(cuts, seed=seed, repeats=repeats)
    except CircuitlapseError:
        return None


_EMPTY: Row = dict.fromkeys(
    ("layer", "head", "change_step", "before", "after", "change", "change_low", "change_high",
     "p_value", "alone", "flipped", "flipped_in", "with_behaviour", "reached", "agreement",
     "agreement_null", "agreement_p", "flips", "flips_null", "flips_p")
)  # fmt: skip


def _row(scores: Scores, arm: Arm, task: str, family: str, kind: str) -> Row:
    names = {**scores.names(arm), "step": scores.last, "task": task, "corruption": family}
    return {**names, "kind": kind, "node": "", **_EMPTY}


def _cut(cut: HeadDynamics) -> Row:
    return {
        "change_step": cut.step,
        "before": cut.before,
        "after": cut.after,
        **spread("change", cut.change),
        "p_value": cut.p_value,
        "alone": cut.alone,
        "flipped": cut.flipped,
        "with_behaviour": cut.with_behaviour,
    }

"""From per-prompt arrays to the comparison of base and checkpoints: overlaps and fates."""

from collections.abc import Collection
from dataclasses import asdict

import numpy as np

from circuitlapse.compare import (
    EdgeImportance,
    Fates,
    HeadEffects,
    NodeImportance,
    Overlap,
    edge_overlaps,
    head_fates,
    node_overlaps,
    used_threshold,
)
from circuitlapse.config import Arm
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.beside import overlaps_beside
from circuitlapse.pipeline.dynamics import dated, exact_steps
from circuitlapse.pipeline.roles import RolesOf
from circuitlapse.pipeline.tabulate import Row, Scores

# Null and resamples are drawn less often for the checkpoints before the last: there are many.
_BETWEEN = 5


def node_overlaps_at(scores: Scores, arm: Arm, family: str, step: int) -> list[Overlap]:
    """Overlaps of node importances between the base and one checkpoint, on both tasks."""
    settings = scores.experiment.compare
    few = 1 if step == scores.last else _BETWEEN
    conditions = [
        NodeImportance(model, task, scores.family(arm.name, at, task, "effects", family))
        for model, at in (("base", 0), ("tuned", step))
        for task in scores.tasks
    ]
    return node_overlaps(
        conditions, scores.graph.nodes, seed=settings.seed,
        permutations=max(1, settings.permutations // few),
        repeats=max(20, settings.bootstrap // few),
    )  # fmt: skip


def edge_overlaps_at(scores: Scores, arm: Arm, family: str, step: int) -> list[Overlap]:
    """Overlaps of edge importances between the base and one checkpoint, on both tasks."""
    graph = scores.graph
    edges = []
    for model, of_model in (("base", 0), ("tuned", step)):
        for task in scores.tasks:
            at = (arm.name, of_model, task)
            mean = scores.family(*at, "edges", family)
            edges.append(EdgeImportance(model, task, mean, scores.family(*at, "halves", family)))
    return edge_overlaps(edges, graph.writers, graph.readers, graph.edges.numpy())


def overlaps_of(scores: Scores, arm: Arm, family: str) -> list[Overlap]:
    """Overlaps of node and of edge importances between both models on both tasks."""
    return [
        *node_overlaps_at(scores, arm, family, scores.last),
        *edge_overlaps_at(scores, arm, family, scores.last),
    ]


def overlap_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``overlap``, at every step that has what they need."""
    rows = []
    exact = exact_steps(scores.experiment)
    for arm in scores.experiment.arms():
        for family in scores.experiment.measure.corruptions:
            names = {**scores.names(arm), "corruption": family}
            for step in scores.experiment.steps():
                units = (*([node_overlaps_at] if step in exact else []), edge_overlaps_at)
                for overlaps_at in units:
                    found = overlaps_at(scores, arm, family, step)
                    rows += [{**names, "step": step, "beside": "", **asdict(r)} for r in found]
            names["step"] = scores.last
            for beside, found in overlaps_beside(scores, arm, family).items():
                rows += [{**names, "beside": beside, **asdict(row)} for row in found]
    return rows


def fates_of(
    scores: Scores, arm: Arm, family: str, step: int, role_changed: Collection[str] = ()
) -> Fates | None:
    """Decide every head's fate between base and checkpoint, from its effects on the test prompts.

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
            for placebo in scores.experiment.noise_placebos(arm)
        ]
        return np.stack(found) if found else None

    measured = HeadEffects(
        heads=[scores.graph.nodes[index] for index in columns],
        base_old=effects(arm.name, 0, old),
        base_new=effects(arm.name, 0, new),
        tuned_old=effects(arm.name, step, old),
        tuned_new=effects(arm.name, step, new),
        placebo_old=placebos(old),
        placebo_new=placebos(new),
    )
    clean, corrupt = (
        scores.family(arm.name, 0, old, name, family) for name in ("clean", "corrupt")
    )
    try:
        threshold = used_threshold(clean - corrupt)
    except CircuitlapseError:
        return None
    return head_fates(measured, threshold, role_changed)


def last_fates(scores: Scores, arm: Arm, family: str) -> Fates | None:
    """What became of every head by the last step."""
    roles = RolesOf(scores, arm, scores.tasks[0])
    return fates_of(scores, arm, family, scores.last, roles.changed(scores.last))


def fate_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``fates``, at every step; none where the base does not do the old task."""
    rows: list[Row] = []
    steps = exact_steps(scores.experiment)
    for arm in scores.experiment.arms():
        roles = RolesOf(scores, arm, scores.tasks[0])
        changed = {step: roles.changed(step) for step in steps}
        for family in scores.experiment.measure.corruptions:
            found = {step: fates_of(scores, arm, family, step, changed[step]) for step in steps}
            names = {**scores.names(arm), "corruption": family}
            of_family = (
                {**names, "step": step, **asdict(row)}
                for step, fates in found.items()
                for row in (fates.rows if fates else [])
            )
            rows += dated(of_family, "fate")
    return rows

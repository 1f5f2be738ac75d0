"""Overlaps of the base with placebos and with an unrelated task.

Only node importances are compared, exact patching effects; edges are not scored for these.
"""

from circuitlapse.compare import NodeImportance, Overlap, node_overlaps
from circuitlapse.config import Arm
from circuitlapse.pipeline.tabulate import Scores
from circuitlapse.tasks import get_task


def overlaps_beside(scores: Scores, arm: Arm, family: str) -> dict[str, list[Overlap]]:
    """Overlaps of the base on the old task with everything that is not the fine-tune.

    The unrelated task, under the first corruption of its own, is compared with both ends of the
    question: base on the old task, and tuned model on the new one.
    """
    experiment, (old, new) = scores.experiment, scores.tasks

    def measured(model: str, name: str, step: int, task: str, of: str = family) -> NodeImportance:
        return NodeImportance(model, task, scores.family(name, step, task, "effects", of))

    base = measured("base", arm.name, 0, old)
    found = {}
    placebos = [
        measured(placebo.label, placebo.name, scores.last, task)
        for placebo in experiment.placebos(arm.recipe)
        for task in (old, new)
    ]
    if placebos:
        found["placebo"] = _compared(scores, [base], placebos)
    task = experiment.controls.unrelated
    if task and arm in experiment.control_arms():
        tuned = measured("tuned", arm.name, scores.last, new)
        own = next(iter(get_task(task).families))
        ends = (("base", 0), ("tuned", scores.last))
        other = [measured(model, arm.name, step, task, own) for model, step in ends]
        found["unrelated_task"] = _compared(scores, [base, tuned], other)
    return found


def _compared(
    scores: Scores, left: list[NodeImportance], right: list[NodeImportance]
) -> list[Overlap]:
    settings = scores.experiment.compare
    pairs = [(i, len(left) + j) for i in range(len(left)) for j in range(len(right))]
    return node_overlaps(
        [*left, *right], scores.graph.nodes, seed=settings.seed, pairs=pairs,
        permutations=settings.permutations, repeats=settings.bootstrap,
    )  # fmt: skip

"""What stands beside the overlap of two circuits: an unrelated task, placebos and random changes.

Only node importances are compared, exact patching effects; edges are not scored for these.
"""

from collections.abc import Mapping

from circuitlapse.attribution import node_effects
from circuitlapse.compare import NodeImportance, Overlaps, node_overlaps
from circuitlapse.compare.random_change import random_change
from circuitlapse.config import Arm, file_label
from circuitlapse.models import Model
from circuitlapse.pipeline.measure import Arrays, family_mean, load_arrays
from circuitlapse.pipeline.plan_controls import random_change as path_of
from circuitlapse.pipeline.tabulate import Scores
from circuitlapse.tasks import PromptPairs, get_task


def changed_effects(
    base: Model, tuned: Model, pairs: Mapping[str, Mapping[str, PromptPairs]], seed: int
) -> Arrays:
    """Patch a base whose weights got a random change as large as fine-tuning's.

    Args:
        base: M0.
        tuned: M1.
        pairs: Test prompts by task and variant.
        seed: Draws the change.

    Returns:
        Effects of all nodes in logits, ``TASK.VARIANT [prompts, nodes]``.
    """
    changed = random_change(base, tuned, seed)
    return {
        f"{file_label(task)}.{variant}": node_effects(changed, prompts).cpu().numpy()
        for task, variants in pairs.items()
        for variant, prompts in variants.items()
    }


def overlaps_beside(scores: Scores, arm: Arm, family: str) -> dict[str, Overlaps]:
    """Overlaps of the base on the old task with everything that is not the fine-tune.

    The unrelated task, under the first corruption of its own, is compared with both ends of the
    question: base on the old task, and tuned model on the new one. Random changes were measured
    under the first family only.
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
    controls, first = experiment.controls, arm in experiment.control_arms()
    if controls.unrelated and first:
        task, tuned = controls.unrelated, measured("tuned", arm.name, scores.last, new)
        own = next(iter(get_task(task).families))
        ends = (("base", 0), ("tuned", scores.last))
        other = [measured(model, arm.name, step, task, own) for model, step in ends]
        found["unrelated_task"] = _compared(scores, [base, tuned], other)
    if controls.random_changes and first and family == experiment.measure.corruptions[0]:
        changed = []
        for number in range(controls.random_changes):
            arrays = load_arrays(scores.store.read(path_of(arm.name, number)))
            for task in (old, new):
                effects = family_mean(arrays, file_label(task), get_task(task).families[family])
                changed.append(NodeImportance(f"random_change-{number}", task, effects))
        found["random_change"] = _compared(scores, [base], changed)
    return found


def _compared(scores: Scores, left: list[NodeImportance], right: list[NodeImportance]) -> Overlaps:
    settings = scores.experiment.compare
    pairs = [(i, len(left) + j) for i in range(len(left)) for j in range(len(right))]
    return node_overlaps(
        [*left, *right], scores.graph.nodes, seed=settings.seed, pairs=pairs,
        permutations=settings.permutations, repeats=settings.bootstrap,
    )  # fmt: skip

"""variable_effect V: does the old task's variable move the new answer?

V = [v(M1) - v(M1, corrupt)] / [v(M0) - v(M0, corrupt)], the new task above, the old task below. A
model that solves the new task by another rule has V near 0. The definition is this project's own.
"""

import numpy as np

from circuitlapse.carriers.old_task_heads import Variants
from circuitlapse.models.engine.model import Model
from circuitlapse.shapes import Float
from circuitlapse.stats.measured import Measured, ratio_of_tasks
from circuitlapse.two_models.other_run import Values, from_corrupt


def contrast(model: Model, task: Variants) -> Float[np.ndarray, " prompts"]:
    """Return v(clean) - v(corrupt) per prompt, averaged over the counterfactuals."""
    return Values.mean([from_corrupt(model, pairs, []) for pairs in task.values()]).whole


def variable_effect(base: Model, tuned: Model, old: Variants, new: Variants) -> Measured:
    """Measure V on test prompts of both tasks."""
    below = contrast(base, old)
    return ratio_of_tasks(contrast(tuned, new), below, "the variable's effect in the base")

"""Late writers: old-task heads whose direct effect on the logits is most of their effect.

Such a head must write what the unembedding reads, so it learns the old directions again even if it
starts from nothing. Without the relearned control it says nothing about the old circuit. The direct
effect is that of path patching from the head to the logits (Wang et al. 2022), in the base on the
old task.
"""

from collections.abc import Collection

import numpy as np
from torch import Tensor

from circuitlapse.carriers.old_task_heads import HeadEffects, Variants
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.paths import sweep_paths
from circuitlapse.prompts.answer_value import answer_values
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs

MOST = 0.5


def late_writers(
    base: Model, old: Variants, effects: HeadEffects, heads: Collection[str]
) -> tuple[str, ...]:
    """Return the late writers among some heads, whose effects were measured on the same prompts."""
    base = base.with_prefix_cache()

    def measure(pairs: PromptPairs, metric: Metric) -> Tensor:
        return sweep_paths(base, pairs, ["logits"], metric=metric).T

    each = [answer_values(pairs, measure).mean(axis=1) for pairs in old.values()]
    direct = dict(zip(base.graph.writers, np.abs(np.mean(each, axis=0)), strict=True))
    whole = dict(zip(effects.heads, np.abs(effects.effects), strict=True))
    return tuple(head for head in heads if direct[head] > MOST * whole[head])

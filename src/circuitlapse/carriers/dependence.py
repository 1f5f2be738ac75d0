"""dependence D: how much of the variable's effect passes through some heads.

D(S) = [v(M) - v(M; the outputs of S from M's corrupted run)] / [v(M) - v(M, corrupt)], at all
positions and averaged over the counterfactuals as a ratio of averages: an interchange intervention
(Geiger et al. 2021) or noising of a group (Heimersheim and Nanda 2024). The normalisation is this
project's own. D near 1 may be a bottleneck of the last heads; random groups and another task's
heads say how much of that there is.
"""

from collections.abc import Sequence

from circuitlapse.carriers.old_task_heads import Variants
from circuitlapse.models.engine.model import Model
from circuitlapse.stats.apart_groups import Compared
from circuitlapse.stats.measured import Measured, ratios
from circuitlapse.two_models.other_run import Values, from_corrupt
from circuitlapse.two_models.patched_runs import Patch


def dependence(model: Model, task: Variants, sets: Sequence[Compared]) -> list[Measured]:
    """Measure D of several sets of heads, each with its random groups."""
    patches = [Patch(heads) for each in sets for heads in each.sets]
    found = Values.mean([from_corrupt(model, pairs, patches) for pairs in task.values()])
    return ratios(sets, found.undone, found.whole, "the variable's effect in the model")

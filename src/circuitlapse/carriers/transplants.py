"""sufficiency and necessity: outputs of the base in the tuned model's run of the same prompts.

sufficiency(S) = [v(M1; all heads outside S from M0) - v(M0)] / G: the own change of S suffices.
necessity(S) = [v(M1) - v(M1; S from M0)] / G: the gain needs the change of what S writes.
G = v(M1) - v(M0). MLPs run freely in both. Heads frozen to another model's activations are those of
path patching (Wang et al. 2022), between two models as in Prakash et al. 2024; the two ratios are
this project's own.
"""

from collections.abc import Sequence

from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.stats.apart_groups import Compared
from circuitlapse.stats.measured import Measured, ratios
from circuitlapse.two_models.other_run import from_model
from circuitlapse.two_models.patched_runs import Patch, frozen_except

_WHY = "the improvement G"


def sufficiency(
    base: Model, tuned: Model, pairs: PromptPairs, sets: Sequence[Compared]
) -> list[Measured]:
    """Measure how much of the improvement is left with only some heads free."""
    free = [heads for each in sets for heads in each.sets]
    patches = [frozen_except(tuned.graph, heads) for heads in free]
    found = from_model(tuned, base, pairs, patches)
    return ratios(sets, found.patched - found.other, found.whole, _WHY)


def necessity(
    base: Model, tuned: Model, pairs: PromptPairs, sets: Sequence[Compared]
) -> list[Measured]:
    """Measure how much of the improvement goes with the base's outputs of some heads."""
    patches = [Patch(heads) for each in sets for heads in each.sets]
    found = from_model(tuned, base, pairs, patches)
    return ratios(sets, found.undone, found.whole, _WHY)

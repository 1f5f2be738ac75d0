"""Whether a truth that was meant to be planted in an organism was planted, by tests set beforehand.

Freezing a circuit does not keep it out of what is learnt: frozen heads still run and are driven
anew. So each kind of organism has a test of its own, and only those that pass may be used to judge
a verdict. Where G is the rise of the new task's mean logit difference from base to tuned model:

=============  =====================================================================================
kind           validated if
=============  =====================================================================================
formed         at least .7 of G is left with all heads but the blank ones frozen to what they add to
               the stream in the base, at all positions (the MLPs run freely)
transformed    the base reaches less than .3 of G by scales on the trained heads alone: what they do
               has changed, not only how loudly they do it
elicited       the locked base has .25 to .45 on the new task and at least .98 on the old one, and
               at least .95 on the new one as soon as the lock is taken out
nothing        the new task's accuracy among the names rises by at most .05 (it may fall to chance)
=============  =====================================================================================

The first three must also have learnt: at least half of the way from the base's accuracy among the
names to 1, else there is nothing to explain.

What is measured of an organism before it may be used: behaviour, the old heads.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from circuitlapse.graph import head_of
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.two_models.head_groups import used_heads

KINDS: tuple[str, ...] = ("formed", "transformed", "elicited", "nothing")


@dataclass(frozen=True)
class Bar:
    """What one figure of an organism must be.

    Attributes:
        figure: Its name.
        low: It must be at least this.
        high: It must be at most this.
    """

    figure: str
    low: float = float("-inf")
    high: float = float("inf")

    def failed(self, figures: Mapping[str, float]) -> str | None:
        """Say what is wrong with the figure, if anything is."""
        value = figures.get(self.figure)
        if value is None:
            return f"{self.figure} has no value: there is nothing to divide by"
        if self.low <= value <= self.high:
            return None
        bounds = {f"at least {self.low}": self.low, f"at most {self.high}": self.high}
        wanted = " and ".join(text for text, bound in bounds.items() if abs(bound) != float("inf"))
        return f"{self.figure} is {value:.3f}, not {wanted}"


_GAINED = Bar("learned", low=0.5)
BARS: dict[str, tuple[Bar, ...]] = {
    "formed": (_GAINED, Bar("mediated", low=0.7)),
    "transformed": (_GAINED, Bar("by_scales", high=0.3)),
    "elicited": (
        _GAINED,
        Bar("base_new", low=0.25, high=0.45),
        Bar("base_old", low=0.98),
        Bar("opened_new", low=0.95),
    ),
    "nothing": (Bar("rise", high=0.05),),
}


def refusal(kind: str, figures: Mapping[str, float]) -> str:
    """Say why an organism is rejected; empty where it is.

    Args:
        kind: What was to be planted.
        figures: By name. One that could not be computed is left out, and is a refusal.
    """
    failures = (bar.failed(figures) for bar in BARS[kind])
    return "; ".join(failure for failure in failures if failure)


@dataclass(frozen=True)
class OrganismFigures:
    """What a model reaches on prompts with held-out name pairs.

    Attributes:
        old: Accuracy on the old task, over the whole vocabulary.
        new: Accuracy on the new task, among the names.
        value: Mean logit difference on the new task, in logits.
    """

    old: float
    new: float
    value: float


def scores(model: Model, old: PromptPairs, new: PromptPairs) -> OrganismFigures:
    """Measure a model on prompts of both tasks."""
    on_old, on_new = behaviour(model, old), behaviour(model, new)
    return OrganismFigures(
        on_old.correct.mean(dtype=np.float64).item(),
        on_new.candidate_correct.mean(dtype=np.float64).item(),
        on_new.logit_diff.mean(dtype=np.float64).item(),
    )


def old_heads(model: Model, task: str, n: int) -> tuple[str, ...]:
    """Name the heads that a model uses on a task, by the definition of the changes.

    Args:
        model: The base.
        task: What it does.
        n: Validation prompts to choose on, of the counterfactual type ``subject``.

    Raises:
        CircuitlapseError: If the model does not do the task.
    """
    items, families = get_task(task).items("validation", n), get_task(task).families
    return used_heads(
        model,
        {variant: tokenize(items, model.tokenizer, variant) for variant in families["subject"]},
    )


@torch.no_grad()
def silence(model: Model, heads: Collection[str]) -> None:
    """Set the output matrices of some heads to zero, in place."""
    for name in heads:
        if (place := head_of(name)) is not None:
            model.decoder.attention[place.layer].W_O[place.head] = 0.0

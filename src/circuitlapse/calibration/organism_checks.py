"""Validation of organisms: does an organism have the ground truth that it was made for?

A frozen circuit still takes part in what is learnt, because it gets new inputs. So each kind has a
check of its own, set in advance, and only organisms that pass may be used to score the verdict. G
is the rise of the new task's mean logit difference from base to tuned model.

=============  =====================================================================================
kind           validated if
=============  =====================================================================================
formed         at least .7 of G is left with all heads but the blank ones frozen to their base
               activations at all positions (MLPs are recomputed)
transformed    rescaling the trained heads of the base reaches less than .3 of G: their function has
               changed, not only their scale
elicited       the suppressed base has .25 to .45 on the new task and at least .98 on the old one,
               and at least .95 on the new one with its unused heads zero-ablated
nothing        the new task's accuracy over the candidates rises by at most .05 (it may fall)
=============  =====================================================================================

The first three must also have learnt: the accuracy over the candidates rises by at least half of
the distance between the base's and 1.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf, isfinite

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
class Criterion:
    """Bounds of one figure of an organism, both included."""

    figure: str
    low: float = -inf
    high: float = inf

    def failed(self, figures: Mapping[str, float]) -> str | None:
        """Say why the figure fails; None if it passes."""
        value = figures.get(self.figure)
        if value is None:
            return f"{self.figure} has no value: there is nothing to divide by"
        if self.low <= value <= self.high:
            return None
        bounds = {f"at least {self.low}": self.low, f"at most {self.high}": self.high}
        wanted = " and ".join(text for text, bound in bounds.items() if isfinite(bound))
        return f"{self.figure} is {value:.3f}, not {wanted}"


_LEARNED = Criterion("learned", low=0.5)
CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "formed": (_LEARNED, Criterion("mediated", low=0.7)),
    "transformed": (_LEARNED, Criterion("by_scales", high=0.3)),
    "elicited": (
        _LEARNED,
        Criterion("base_new", low=0.25, high=0.45),
        Criterion("base_old", low=0.98),
        Criterion("unlocked_new", low=0.95),
    ),
    "nothing": (Criterion("rise", high=0.05),),
}


def why_rejected(kind: str, figures: Mapping[str, float]) -> str:
    """Say why an organism is not validated; empty if it is. A missing figure fails."""
    failures = (criterion.failed(figures) for criterion in CRITERIA[kind])
    return "; ".join(failure for failure in failures if failure)


@dataclass(frozen=True)
class OrganismFigures:
    """Figures of one model on prompts with held-out name pairs.

    Attributes:
        old: Accuracy on the old task, over the whole vocabulary.
        new: Accuracy on the new task, over the candidates.
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
    """Name the heads that a model uses on a task, by ``n`` validation prompts per variant.

    Raises:
        CircuitlapseError: If the model does not solve the task.
    """
    items, families = get_task(task).items("validation", n), get_task(task).families
    return used_heads(
        model,
        {variant: tokenize(items, model.tokenizer, variant) for variant in families["subject"]},
    )


@torch.no_grad()
def zero_ablate(model: Model, heads: Collection[str]) -> None:
    """Set the output matrices of some heads to zero, in place."""
    for name in heads:
        if (place := head_of(name)) is not None:
            model.decoder.attention[place.layer].W_O[place.head] = 0.0

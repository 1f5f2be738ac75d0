"""Measurements of two models from which one fine-tune is labelled.

Output scales are fitted and groups are chosen on validation prompts. Both models, all grafts of M1
into rescaled M0, and the base with non-negative scales are run on test prompts. Grafts and
mediation of old-task and recruited heads are compared with those of size-matched random heads.
Definitions: :mod:`circuitlapse.verdict.causes`; rule: :mod:`circuitlapse.verdict.decision`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.documents import Group
from circuitlapse.stats.random_baseline import matched_heads
from circuitlapse.two_models.fit_scales import OutputScales, ScaleFits, rescaled
from circuitlapse.two_models.grafts import graft_values, parameter_groups
from circuitlapse.two_models.head_grafts import GraftedHeads
from circuitlapse.two_models.head_groups import Variants, choose_heads
from circuitlapse.two_models.mediation import behaviours_with_frozen_heads
from circuitlapse.verdict.evidence import HEAD_GROUPS, CauseEvidence
from circuitlapse.verdict.thresholds import JUDGED_GROUPS


@dataclass(frozen=True)
class EvidencePrompts:
    """Prompts for the measurements.

    Attributes:
        old: Validation prompts of the old task, under each counterfactual of one family.
        new: Validation prompts of the new task, likewise.
        test: Test prompts of the new task; only the clean ones are run.
    """

    old: Variants
    new: Variants
    test: PromptPairs


def cause_evidence(
    base: Model,
    tuned: Model,
    prompts: EvidencePrompts,
    *,
    seed: int = 0,
    n_random: int = JUDGED_GROUPS,
    advance: Callable[[int, int], None] | None = None,
) -> CauseEvidence:
    """Measure everything that the label of one fine-tune rests on.

    Args:
        base: M0.
        tuned: M1, of the same architecture and vocabulary.
        prompts: What to measure on.
        seed: Draws the random groups.
        n_random: Random groups to compare each group of heads with.
        advance: Called with (parts done, parts in all).

    Raises:
        CircuitlapseError: If the models differ in architecture or cannot run the prompts.
    """
    done, of = 0, 3 + 2 * len(HEAD_GROUPS)

    def step() -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(done, of)

    validation = next(iter(prompts.new.values()))
    choice = choose_heads(base, tuned, prompts.old, prompts.new)
    step()
    fits = ScaleFits(base, tuned, validation)
    scales, non_negative = fits.fit(), fits.fit(non_negative=True)
    del fits  # frees the gradients of all prompts
    rescaled_base = rescaled(base, scales)
    bounded = rescaled_base if non_negative is scales else rescaled(base, non_negative)
    step()
    groups = parameter_groups(base.hf, choice.old_heads, choice.recruited_heads)
    hybrids = graft_values(rescaled_base, tuned, groups, prompts.test)
    before = behaviour(base, prompts.test)
    step()
    named: dict[Group, tuple[str, ...]] = {
        "old_heads": choice.old_heads,
        "recruited_heads": choice.recruited_heads,
    }
    graft: dict[Group, list[float]] = {}
    mediated: dict[Group, list[float]] = {}
    grafted = GraftedHeads(rescaled_base, tuned, prompts.test)
    for group, heads in named.items():
        if heads:
            sets = [heads, *matched_heads(base.graph, heads, n_random, seed)]
            rises = grafted.improvements(sets, "whole", "add_one_in")
            graft[group] = rises.mean(axis=1).tolist()
            step()
            answers = behaviours_with_frozen_heads(base, tuned, prompts.test, sets)
            left = [_mean(each) - _mean(before) for each in answers]
            mediated[group] = left
            step()
    return CauseEvidence(
        choice=choice,
        n_parameters=groups.n_parameters,
        scales=_by_node(scales),
        base=before,
        tuned=behaviour(tuned, prompts.test),
        hybrids=hybrids,
        non_negative=behaviour(bounded, prompts.test).logit_diff.astype(np.float64),
        graft=graft,
        held=mediated,
    )


def _mean(answers: Behaviour) -> float:
    return answers.logit_diff.mean(dtype=np.float64).item()


def _by_node(scales: OutputScales) -> dict[str, float]:
    return dict(zip(scales.graph.nodes, scales.nodes.tolist(), strict=True))

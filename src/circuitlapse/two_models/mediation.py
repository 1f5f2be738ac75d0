"""Mediation: the improvement left with all heads outside a group frozen to the base.

The tuned model runs on the clean prompts. The output of every head outside the group, at all
positions, is the base's on the same prompt (its mixed values through the *base's* W_O). Heads of
the group, MLPs, embeddings, normalisations and the attention's output biases are the tuned model's
and run freely on their new inputs.

With v(S) the mean logit difference with the heads S free, the improvement left is v(S) - v(M0):
with all heads free it is G, and with none the effect of everything but the heads. A graft asks
which *weights* cause the improvement; mediation asks which *activations* carry it. Heads with the
base's weights and changed inputs count here, and not there. (Vig et al. 2020 on mediation by
components; frozen activations as in Wang et al.'s 2022 path patching, but between two models
instead of two prompts.)
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.answers import Behaviour
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.random_baseline import (
    RANDOM_GROUPS,
    RandomBaseline,
    compare_to_random,
    matched_heads,
)
from circuitlapse.stats.ratios import divide, logit_rounding
from circuitlapse.two_models.other_run import behaviours_from_model
from circuitlapse.two_models.patched_runs import frozen_except

NO_HEADS, ALL_HEADS = "no heads", "all heads"


def behaviours_with_frozen_heads(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    free: Sequence[Collection[str]],
    batch_size: int | None = None,
) -> list[Behaviour]:
    """Run the tuned model with all heads but some frozen to the base's activations.

    Args:
        base: M0.
        tuned: M1, of the same architecture and vocabulary.
        pairs: Prompts; only the clean ones are run.
        free: For each run, the heads that are not frozen.
        batch_size: Prompts per batch.

    Raises:
        CircuitlapseError: If the models differ in architecture, or have no such head.
    """
    patches = [frozen_except(tuned.graph, heads) for heads in free]
    return behaviours_from_model(tuned, base, pairs, patches, batch_size)


@dataclass(frozen=True)
class Mediated:
    """The improvement left with one group of heads free.

    Attributes:
        group: Its name; ``no heads`` and ``all heads`` are the two ends of the scale.
        heads: Its heads.
        improvement: v(group) - v(M0) in logits, with its interval over prompts.
        share: The same over G; None where G's interval is not above zero.
        random: Improvements left with size-matched random groups instead; None where there are
        none.
    """

    group: str
    heads: tuple[str, ...]
    improvement: Estimate
    share: Estimate | None
    random: RandomBaseline | None


def mediation(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    groups: Mapping[str, Collection[str]],
    *,
    seed: int,
    n_random: int | Mapping[str, int] = RANDOM_GROUPS,
    repeats: int = 1000,
    advance: Callable[[int, int], None] | None = None,
) -> list[Mediated]:
    """Measure the improvement that each group of heads mediates, compared with random groups.

    Args:
        base: M0.
        tuned: M1.
        pairs: The new task's test prompts; groups must have been chosen on others.
        groups: Heads by name of their group.
        seed: Fixes random groups and bootstrap.
        n_random: Random groups for each, or by group, and none where a group is not named.
        repeats: Bootstrap resamples of the prompts.
        advance: Called with (groups done, groups in all).

    Returns:
        One row for no heads, one for each group, and one for all heads.

    Raises:
        CircuitlapseError: If the models differ in architecture, or have no such head.
    """
    graph = tuned.graph
    named = {NO_HEADS: (), **groups, ALL_HEADS: graph.heads}
    before = behaviour(base, pairs).logit_diff.astype(np.float64)
    values, random = [], []
    for done, (name, heads) in enumerate(named.items()):
        n = n_random if isinstance(n_random, int) else n_random.get(name, 0)
        drawn = matched_heads(graph, heads, n, seed)
        own, *others = behaviours_with_frozen_heads(base, tuned, pairs, [heads, *drawn])
        values.append(own.logit_diff.astype(np.float64))
        left = [float(other.logit_diff.mean(dtype=np.float64) - before.mean()) for other in others]
        random.append(compare_to_random(float(values[-1].mean() - before.mean()), left))
        if advance is not None:
            advance(done + 1, len(named))
    parts = np.stack(values, axis=1) - before[:, None]
    divided = divide(
        parts, parts[:, -1], seed=seed, repeats=repeats, rounding=logit_rounding(np.stack(values))
    )
    return [
        Mediated(name, tuple(heads), divided.parts[i], divided.share(i), random[i])
        for i, (name, heads) in enumerate(named.items())
    ]

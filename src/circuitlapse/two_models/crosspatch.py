"""Cross-model activation patching: one model's activations in the other's run of the same prompt.

CMAP (Prakash et al. 2024): nothing is corrupted. The same prompt runs through both models. In one
of them, the mixed values of some heads (before W_O) are replaced by the other model's, at one
position or at all, and pass through the patched model's *own* W_O. An MLP's output is replaced by
the other model's. The rest of the patched model runs freely.

Forward, the base gets the tuned model's activations: are they sufficient? The improvement is
v(patched base) - v(M0). Backward, the tuned model gets the base's: are its own necessary? The
improvement is v(M1) - v(patched tuned model). Both are parts of G = v(M1) - v(M0).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from circuitlapse.graph import head_of
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
from circuitlapse.two_models.patched_runs import Patch

Direction = Literal["tuned_into_base", "base_into_tuned"]


@dataclass(frozen=True)
class Crosspatched:
    """Effect of patching one group's activations at one position.

    Attributes:
        group: Its name.
        position: A named position, or ``everywhere``.
        direction: ``tuned_into_base`` into the base, ``base_into_tuned`` into the tuned model.
        improvement: Part of G that the patch adds or removes, in logits, with its interval.
        share: The same over G; None where G's interval is not above zero.
        accuracy: The patched model's accuracy over the candidates (as in Prakash et al.).
        random: Improvements of size-matched random heads at the same position; None where there are
        none.
    """

    group: str
    position: str
    direction: Direction
    improvement: Estimate
    share: Estimate | None
    accuracy: float
    random: RandomBaseline | None


def crosspatch(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    groups: Mapping[str, Collection[str]],
    positions: Sequence[str],
    *,
    seed: int,
    n_random: int = RANDOM_GROUPS,
    repeats: int = 1000,
    advance: Callable[[int, int], None] | None = None,
) -> list[Crosspatched]:
    """Patch every group at every position, in both directions.

    Args:
        base: M0.
        tuned: M1.
        pairs: The new task's test prompts; groups must have been chosen on others.
        groups: Heads, MLPs or both by group name. Only groups of heads alone have random groups.
        positions: Named positions of the pairs, and ``everywhere``.
        seed: Fixes random groups and bootstrap.
        n_random: Random groups for each.
        repeats: Bootstrap resamples of the prompts.
        advance: Called with (patches done, all patches).

    Raises:
        CircuitlapseError: If the models differ in architecture, or there is no such node or
            position.
    """
    before, after = (
        behaviour(model, pairs).logit_diff.astype(np.float64) for model in (base, tuned)
    )
    sets: dict[str, list[tuple[str, ...]]] = {}
    for name, nodes in groups.items():
        heads_only = all(map(head_of, nodes))
        drawn = matched_heads(base.graph, nodes, n_random, seed) if heads_only else []
        sets[name] = [tuple(each) for each in (nodes, *drawn)]
    asked = [(name, position) for name in sets for position in positions]
    patches = [Patch(each, position) for name, position in asked for each in sets[name]]
    found: dict[tuple[str, str, Direction], list[Behaviour]] = {}
    for direction in get_args(Direction):
        # One call for all patches, so that each unpatched model runs only once.
        models = (base, tuned) if direction == "tuned_into_base" else (tuned, base)
        answers = iter(behaviours_from_model(*models, pairs, patches, own_weights=True))
        for name, position in asked:
            found[name, position, direction] = [next(answers) for _ in sets[name]]
        if advance is not None:
            advance(len(found), len(get_args(Direction)) * len(asked))
    keys = [
        (name, position, direction)
        for name in sets
        for direction in get_args(Direction)
        for position in positions
    ]
    parts, accuracies, random = [], [], []
    for key in keys:
        values = np.stack([each.logit_diff.astype(np.float64) for each in found[key]])
        improvements = values - before if key[2] == "tuned_into_base" else after - values
        parts.append(improvements[0])
        accuracies.append(float(found[key][0].candidate_correct.mean(dtype=np.float64)))
        random.append(
            compare_to_random(float(improvements[0].mean()), improvements[1:].mean(axis=1).tolist())
        )
    divided = divide(
        np.stack(parts, axis=1),
        after - before,
        seed=seed,
        repeats=repeats,
        rounding=logit_rounding(np.stack([before, after])),
    )
    return [
        Crosspatched(*key, divided.parts[i], divided.share(i), accuracies[i], random[i])
        for i, key in enumerate(keys)
    ]

"""new_heads N and driving_heads N2: heads that the base uses on neither task and the new one needs.

N: idle in M0, which is an effect below .02 of M0's v(clean) - v(corrupt) on the old task, on both
tasks; and an effect above .02 of M1's v(clean) - v(corrupt) on the new task in M1. A new head that
works through old ones may not carry the variable, so a corruption does not find it.
N2: idle in M0; and v(M1) falls by more than .02 of G with the base's output of this head alone on
the same prompts. Old-task heads are in neither. The definitions are this project's own; heads are
chosen on validation prompts.
"""

from collections.abc import Collection
from dataclasses import dataclass

from circuitlapse.carriers.old_task_heads import HeadEffects, Variants, head_effects
from circuitlapse.carriers.variable_effect import contrast
from circuitlapse.heads.thresholds import USED_FRACTION
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.two_models.other_run import from_model
from circuitlapse.two_models.patched_runs import Patch


@dataclass(frozen=True, eq=False)
class IdleHeads:
    """Heads that the base uses on neither task, and its effects on the old one."""

    idle: frozenset[str]
    old: HeadEffects


def idle_heads(base: Model, old: Variants, new: Variants) -> IdleHeads:
    """Find the heads that the base uses on neither task."""
    most = USED_FRACTION * abs(contrast(base, old).mean())
    on_old, on_new = head_effects(base, old, most), head_effects(base, new, most)
    return IdleHeads(frozenset(on_old.within(most) & on_new.within(most)), on_old)


def new_heads(
    tuned: Model, new: Variants, idle: Collection[str], old_heads: Collection[str]
) -> tuple[str, ...]:
    """Return N."""
    least = USED_FRACTION * abs(contrast(tuned, new).mean())
    effects = head_effects(tuned, new, least)
    unused = effects.within(least)
    free = set(idle) - set(old_heads)
    return tuple(head for head in effects.heads if head in free and head not in unused)


def driving_heads(
    base: Model,
    tuned: Model,
    pairs: PromptPairs,
    idle: Collection[str],
    old_heads: Collection[str],
) -> tuple[str, ...]:
    """Return N2; empty without an improvement."""
    heads = [head for head in tuned.graph.heads if head in idle and head not in old_heads]
    found = from_model(tuned, base, pairs, [Patch((head,)) for head in heads])
    improvement, lost = found.whole.mean(), found.undone.mean(axis=1)
    if improvement <= 0:
        return ()
    drives = lost > USED_FRACTION * improvement
    return tuple(head for head, is_one in zip(heads, drives, strict=True) if is_one)

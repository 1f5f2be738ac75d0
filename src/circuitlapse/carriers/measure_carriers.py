"""All measures of what carries a new ability, of one base and one fine-tune of it.

Heads are chosen on validation prompts, everything else is measured on test prompts. Nothing is
reported below variable_effect unless the variable moves the new answer; new heads are, as a
description.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from circuitlapse.carriers.dependence import dependence
from circuitlapse.carriers.late_writers import late_writers
from circuitlapse.carriers.new_heads import IdleHeads, driving_heads, idle_heads, new_heads
from circuitlapse.carriers.old_task_heads import Variants, head_effects
from circuitlapse.carriers.same_directions import same_directions
from circuitlapse.carriers.transplants import necessity, sufficiency
from circuitlapse.carriers.variable_effect import variable_effect
from circuitlapse.models.engine.model import Model
from circuitlapse.records.carriers import (
    OTHER_VARIABLE,
    Carriers,
    NewHeads,
    OldHeads,
    SameDirections,
)
from circuitlapse.stats.apart_groups import GROUPS, Compared, compared
from circuitlapse.stats.intervals import mean_interval
from circuitlapse.stats.measured import FEWEST_GROUPS, Measured
from circuitlapse.two_models.other_run import from_model
from circuitlapse.verdict.label_marks import VARIABLE_USED

PARTS = 5
"""Steps of progress."""


@dataclass(frozen=True)
class CarrierPrompts:
    """Prompts of both tasks; ``other`` are validation prompts of a third task, if there is one."""

    old_validation: Variants
    new_validation: Variants
    old_test: Variants
    new_test: Variants
    other: Variants | None = None


@dataclass(frozen=True)
class _Choices:
    """The choices of old-task heads, each with its random groups, and the other choices."""

    old: tuple[Compared, ...]
    new: Compared
    driving: Compared
    other: Compared
    late: tuple[str, ...]
    ranked: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """Measures of all choices of old-task heads, and of two more sets of heads."""

    each: Sequence[OldHeads]
    early: SameDirections
    other: Measured


def carriers(
    base: Model,
    tuned: Model,
    prompts: CarrierPrompts,
    *,
    trained: Collection[str] = (),
    same_variable: bool = True,
    n_groups: int = GROUPS,
    seed: int = 0,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> Carriers:
    """Measure what carries a new ability.

    Args:
        base: M0.
        tuned: M1, of the same architecture.
        prompts: What to choose and to measure on.
        trained: Heads that a restricted fine-tune trained: random groups have none of them.
        same_variable: Whether both tasks' counterfactuals change the same variable.
        n_groups: Random groups of each choice of heads; nine for half, double and other heads.
        seed: Draws the random groups.
        advance: Called with (parts done, parts in all).

    Raises:
        CircuitlapseError: If the models differ in architecture or cannot run the prompts.
    """
    base, tuned = base.with_prefix_cache(), tuned.with_prefix_cache()
    choices = _choose(base, tuned, prompts, trained, n_groups, seed)
    advance(1, PARTS)
    pairs = next(iter(prompts.new_test.values()))
    effect = Measured(not_reported=OTHER_VARIABLE)
    if same_variable:
        effect = variable_effect(base, tuned, prompts.old_test, prompts.new_test)
    advance(2, PARTS)
    C, driving = choices.old[0].heads, choices.driving
    with_old = Compared((*C, *driving.heads), tuple((*C, *group) for group in driving.groups))
    sets = [Compared(()), choices.new, with_old, *choices.old]
    nothing, of_new, of_driving, *of_old = sufficiency(base, tuned, pairs, sets)
    advance(3, PARTS)
    new, drives = necessity(base, tuned, pairs, [choices.new, driving])
    advance(4, PARTS)
    moved = effect.estimate is not None and effect.estimate.low >= VARIABLE_USED
    if moved or not same_variable:
        found = _old_heads(base, tuned, prompts, choices, of_old, same_variable)
    else:
        why = effect.not_reported or "the old task's variable does not move the new answer"
        found = _not_reported(base, prompts, choices, why)
    advance(5, PARTS)
    old, half, double, without_best = found.each
    return Carriers(
        improvement=mean_interval(from_model(tuned, base, pairs, []).whole),
        variable_effect=effect,
        old=old,
        half=half,
        double=double,
        without_best=without_best,
        no_heads=nothing,
        new=_new_heads(choices.new, new, of_new),
        driving=_new_heads(driving, drives, of_driving),
        late_writers=choices.late,
        early_directions=found.early,
        other_task=found.other,
        other_heads=choices.other.heads,
    )


def _choose(
    base: Model,
    tuned: Model,
    prompts: CarrierPrompts,
    trained: Collection[str],
    n_groups: int,
    seed: int,
) -> _Choices:
    graph, few = tuned.graph, min(n_groups, FEWEST_GROUPS)
    idle: IdleHeads = idle_heads(base, prompts.old_validation, prompts.new_validation)
    effects, C = idle.old, idle.old.fewest()
    best_half = effects.times(0.5)
    chosen = [C, best_half, effects.times(2.0), effects.fewest(without=best_half)]
    pairs = next(iter(prompts.new_validation.values()))
    N = new_heads(tuned, prompts.new_validation, idle.idle, C)
    N2 = driving_heads(base, tuned, pairs, idle.idle, C)
    others = head_effects(base, prompts.other).fewest() if prompts.other else ()
    apart = (*C, *trained)
    return _Choices(
        tuple(
            compared(graph, heads, apart, n_groups if heads is C else few, seed) for heads in chosen
        ),
        compared(graph, N, apart, n_groups, seed),
        compared(graph, N2, apart, n_groups, seed),
        compared(graph, set(others) - set(C), n=0),
        late_writers(base, prompts.old_validation, effects, C),
        effects.best(len(effects.heads)),
    )


def _old_heads(
    base: Model,
    tuned: Model,
    prompts: CarrierPrompts,
    choices: _Choices,
    kept: Sequence[Measured],
    same_variable: bool,
) -> _Found:
    """Measure all choices of old-task heads."""
    heads = [each.heads for each in choices.old]
    undone = dependence(base, prompts.old_test, [Compared(each) for each in heads])
    *depends, other = dependence(tuned, prompts.new_test, [*choices.old, choices.other])
    if not choices.other.heads:
        other = Measured(not_reported="no other task, or no heads of it beyond the old-task heads")
    early = tuple(head for head in heads[0] if head not in choices.late)
    same = [SameDirections(not_reported="the tasks' variables differ")] * (1 + len(heads))
    if same_variable:
        both = prompts.old_test, prompts.new_test
        same = same_directions(base, tuned, *both, [early, *heads], choices.ranked)
    if not early:
        same[0] = SameDirections(not_reported="every old-task head is a late writer")
    rows = zip(heads, undone, depends, same[1:], kept, strict=True)
    return _Found([OldHeads(*row) for row in rows], same[0], other)


def _not_reported(base: Model, prompts: CarrierPrompts, choices: _Choices, why: str) -> _Found:
    """Return the choices alone, where the variable does not move the new answer."""
    nothing, same = Measured(not_reported=why), SameDirections(not_reported=why)
    alone = [Compared(each.heads) for each in choices.old]
    undone = dependence(base, prompts.old_test, alone)
    rows = zip(alone, undone, strict=True)
    each = [OldHeads(one.heads, back, nothing, same, nothing) for one, back in rows]
    return _Found(each, same, nothing)


def _new_heads(chosen: Compared, needed: Measured, kept: Measured) -> NewHeads:
    if not chosen.heads:
        nothing = Measured(not_reported="there are no such heads")
        return NewHeads((), nothing, nothing)
    return NewHeads(chosen.heads, needed, kept)

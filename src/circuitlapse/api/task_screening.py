"""Grades of a model on tasks, and pairs of tasks that suit an experiment.

A grade uses the interval of the accuracy over the candidates: later measurements compare the answer
with its distractors, and a model that continues with "the" names no wrong person.

The distance of two tasks is a sum of three terms:

- the number of kinds of named positions in only one of them; ``S1`` and ``S2`` are one kind, ``S``;
- the difference of the numbers of people in a prompt;
- the share of words in only one of them (0 to 1), without names and words that fill slots.

``ioi2`` and ``ioi3`` have distance 1, for one more person; ``ioi2`` and ``leave2`` about 7.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circuitlapse.records.survey import Mark, ModelSurvey, TaskFigures, TaskPair
from circuitlapse.stats.intervals import Estimate
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.words import POOLS
from circuitlapse.verdict.thresholds import FAILED_AT_MOST, NEW_NOT_MASTERED, OLD_MASTERED

MARKS: tuple[Mark, ...] = ("mastered", "partial", "failed")
"""From the best to the worst."""

CRITERIA = (
    f"Grades use the 95 % interval of the accuracy over the candidates. Mastered: its lower end is "
    f"at least {OLD_MASTERED:.2f}. Failed: its upper end is at most halfway from chance to 1. "
    f"Partial: all others. In a suggested pair the old task is mastered, the upper end of the new "
    f"task is at most {NEW_NOT_MASTERED:.2f}, as a run requires of its base, and both share a "
    f"counterfactual type."
)


def mark_of(accuracy: Estimate, chance: float) -> Mark:
    """Return the grade for an accuracy over the candidates and its chance level."""
    if accuracy.low >= OLD_MASTERED:
        return "mastered"
    return "failed" if accuracy.high <= chance + FAILED_AT_MOST * (1 - chance) else "partial"


@dataclass(frozen=True)
class Form:
    """The form of a task: kinds of named positions, people in a prompt, words in lower case."""

    kinds: frozenset[str]
    people: int
    words: frozenset[str]


def suggested_pairs(
    figures: Sequence[TaskFigures], tasks: Mapping[str, Task], form: Callable[[str], Form]
) -> list[TaskPair]:
    """Return the pairs of tasks that suit an experiment with a model, the most similar first."""
    old = [each.task for each in figures if each.mark == "mastered"]
    new = [
        each.task
        for each in figures
        if each.mark != "mastered" and each.candidate_accuracy.high <= NEW_NOT_MASTERED
    ]
    pairs = [
        TaskPair(old=a, new=b, distance=form_distance(form(a), form(b)), families=shared)
        for a in old
        for b in new
        if (shared := [family for family in tasks[a].families if family in tasks[b].families])
    ]
    return sorted(pairs, key=lambda pair: (pair.distance, pair.old, pair.new))


def smallest_master(models: Sequence[ModelSurvey], task: str) -> str | None:
    """Return the smallest model that masters a task, if any does."""
    masters = [
        model
        for model in models
        if (figures := model.figures(task)) is not None and figures.mark == "mastered"
    ]
    return min(masters, key=lambda model: model.parameters).model if masters else None


_PROMPTS = 256  # enough for nearly every wording of a task
_FILLERS = frozenset(word.lower() for words in POOLS.values() for word in words)


def form_of(task: Task) -> Form:
    """Return a task's form from its named positions and its test prompts.

    Raises:
        CircuitlapseError: If it has no test prompts.
    """
    most = task.n_items("test")
    items = task.items("test", _PROMPTS if most is None else max(1, min(most, _PROMPTS)))
    words = set()
    for item in items:
        names = {name.lower() for name in item.names}
        words |= set(re.findall(r"[^\W\d]+", item.prompt.lower())) - names
    return Form(
        kinds=frozenset(re.sub(r"\d+", "", label) for label in task.positions),
        people=max(len(item.names) for item in items),
        words=frozenset(words - _FILLERS),
    )


def form_distance(one: Form, other: Form) -> float:
    """Return the distance of two forms; 0 for a form and itself."""
    words = one.words | other.words
    apart = len(one.words ^ other.words) / len(words) if words else 0.0
    return len(one.kinds ^ other.kinds) + abs(one.people - other.people) + apart

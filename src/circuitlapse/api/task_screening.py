"""What a model does by itself, and which pairs of tasks are therefore worth an experiment.

Marks go by accuracy among candidates, since all that is measured afterwards compares the answer
with its distractors, and a model that would go on with another word altogether ("the") is not
wrong. They go by the ends of the interval, so that what too few prompts leave open is ``partial``.

How far apart in form two tasks are, from what they declare and how they are worded.

The distance is a sum of three counts, so that it can be worked out by hand:

- kinds of named positions that only one of the two has, a position's number left out: ``S1`` and
  ``S2`` are both of the kind ``S``;
- the difference of the numbers of people in a prompt;
- the share of the words of both that only one has (0 to 1), apart from names and from what fills
  slots: places, objects, numbers and the like.

So ``ioi2`` is 1 from ``ioi3``, which has one person more, and 7 or so from ``leave2``, whose roles
and words are others.
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
    f"Marks go by the 95 % interval of accuracy among candidates. Mastered: its lower end is at "
    f"least {OLD_MASTERED:.2f}. Failed: its upper end is no further than halfway from chance to 1. "
    f"Partial: all else. A pair is worth an experiment where the old task is mastered, the upper "
    f"end of the new one is at most {NEW_NOT_MASTERED:.2f}, which a run asks of its base too, and "
    f"both have a counterfactual type in common."
)


def mark_of(among: Estimate, chance: float) -> Mark:
    """Mark how well a task is done.

    Args:
        among: Accuracy among candidates.
        chance: The same for one who picks any candidate.
    """
    if among.low >= OLD_MASTERED:
        return "mastered"
    return "failed" if among.high <= chance + FAILED_AT_MOST * (1 - chance) else "partial"


@dataclass(frozen=True)
class Form:
    """What a task's prompts look like, whatever they ask.

    Attributes:
        kinds: Kinds of named positions.
        people: People in a prompt.
        words: Words of its texts, in lower case.
    """

    kinds: frozenset[str]
    people: int
    words: frozenset[str]


def worthwhile(
    figures: Sequence[TaskFigures], tasks: Mapping[str, Task], form: Callable[[str], Form]
) -> list[TaskPair]:
    """Find the pairs of tasks of one model that are worth an experiment.

    Args:
        figures: What the model does.
        tasks: The tasks by name.
        form: Gives a task's form by its name; called for tasks of such pairs only.

    Returns:
        The nearest in form first, then by name.
    """
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
    """Name the model with fewest parameters among those that master a task, if any does."""
    masters = [
        model
        for model in models
        if (figures := model.figures(task)) is not None and figures.mark == "mastered"
    ]
    return min(masters, key=lambda model: model.parameters).model if masters else None


_PROMPTS = 256  # enough to meet nearly every wording of a task
_FILLERS = frozenset(word.lower() for words in POOLS.values() for word in words)


def form_of(task: Task) -> Form:
    """Read a task's form from what it declares and from its test prompts.

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
    """Return how far apart in form two tasks are; 0 for a task and itself."""
    words = one.words | other.words
    apart = len(one.words ^ other.words) / len(words) if words else 0.0
    return len(one.kinds ^ other.kinds) + abs(one.people - other.people) + apart

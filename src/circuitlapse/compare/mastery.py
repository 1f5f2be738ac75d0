"""What a model does by itself, and which pairs of tasks are therefore worth an experiment.

Marks go by accuracy among candidates, since all that is measured afterwards compares the answer
with its distractors, and a model that would go on with another word altogether ("the") is not
wrong. They go by the ends of the interval, so that what too few prompts leave open is ``partial``.
"""

from collections.abc import Callable, Mapping, Sequence

from circuitlapse.compare.thresholds import FAILED_AT_MOST, NEW_NOT_MASTERED, OLD_MASTERED
from circuitlapse.records.documents import Estimate
from circuitlapse.records.survey import Mark, ModelSurvey, TaskFigures, TaskPair
from circuitlapse.tasks import Task
from circuitlapse.tasks.form import Form, form_distance

MARKS: tuple[Mark, ...] = ("mastered", "partial", "failed")
"""From the best to the worst."""

CRITERIA = (
    f"Marks go by the 95 % interval of accuracy among candidates. Mastered: its lower end is at "
    f"least {OLD_MASTERED:.2f}. Failed: its upper end is no further than halfway from chance to 1. "
    f"Partial: all else. A pair is worth an experiment where the old task is mastered, the upper "
    f"end of the new one is at most {NEW_NOT_MASTERED:.2f}, which a run asks of its base too, and "
    f"both have a corruption family in common."
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
        if each.mark != "mastered" and each.accuracy_among.high <= NEW_NOT_MASTERED
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

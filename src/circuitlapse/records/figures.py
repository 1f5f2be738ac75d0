"""What goes wrong in fine-tuning without an error: named where it shows in the figures.

Each trap compares ends of 95 % intervals, so that chance and few prompts raise no flag. The
thresholds are judgements and stand here alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# A model that mostly stops instead of answering has collapsed; a base hardly ever does.
STOPS = 0.5
# Rehearsal forgets a little. A model that lost a fifth of its old answers does another task now.
OLD_KEPT = 0.8


Split = Literal["train", "validation", "old_task"]


@dataclass(frozen=True)
class Figures:
    """What a model made of some watched prompts at one step, with 95 % intervals over prompts.

    Attributes:
        step: Optimiser steps so far.
        split: As in ``Watched``.
        task: Name of the task.
        n: How many prompts.
        loss: Mean negative log-likelihood of the answer, in nats per token of it.
        accuracy: Share of answers whose every token has the largest logit of the vocabulary.
        end_of_text: Share of prompts after which the end-of-text token has the largest logit.
    """

    step: int
    split: Split
    task: str
    n: int
    loss: float
    loss_low: float
    loss_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    end_of_text: float
    end_of_text_low: float
    end_of_text_high: float


def flags(figures: Figures, at_step: Sequence[Figures], base: Sequence[Figures], end: bool) -> str:
    """Name the traps that some figures show, joined by commas; empty where there is none.

    - ``end_of_text``: after most prompts the model predicts the end-of-text token.
    - ``overfit`` (``train``): right more often on prompts that it is trained on than on others.
    - ``old_task_lost`` (``old_task``): fewer than four fifths of the base's right answers are left.
    - ``not_learning`` (``validation``): at the last step neither the interval of the loss nor that
      of the accuracy is clear of the base's, on the better side.

    Args:
        figures: Of one split at one step.
        at_step: All splits' figures at the same step.
        base: All splits' figures at step 0.
        end: Whether this is the last step.
    """
    before = next(each for each in base if each.split == figures.split)
    found = []
    if figures.end_of_text_low > STOPS:
        found.append("end_of_text")
    if figures.split == "train" and any(
        figures.accuracy_low > each.accuracy_high for each in at_step if each.split == "validation"
    ):
        found.append("overfit")
    if figures.split == "old_task" and figures.accuracy_high < OLD_KEPT * before.accuracy_low:
        found.append("old_task_lost")
    if figures.split == "validation" and end:
        better = figures.loss_high < before.loss_low or figures.accuracy_low > before.accuracy_high
        if not better:
            found.append("not_learning")
    return ",".join(found)


def flagged(history: Sequence[Figures], last: int | None = None) -> list[tuple[Figures, str]]:
    """Pair every step's figures with their flags.

    Args:
        history: The figures of all splits and steps.
        last: The training's last step; by default the figures'. Where they end before it, those
            they end with are flagged ``diverged``: after them some number was no longer finite.
    """
    base = [each for each in history if each.step == 0]
    end, found = max((each.step for each in history), default=0), []
    last = end if last is None else last
    for each in history:
        named = flags(each, [o for o in history if o.step == each.step], base, each.step == last)
        if each.step == end < last:
            named = ",".join(filter(None, (named, "diverged")))
        found.append((each, named))
    return found


def sentence(flag: str, figures: Figures, base: Figures) -> str:
    """Say what a flag means, with the figures that raised it and what to do."""
    accuracy, n = f"{figures.accuracy:.0%}", f"{figures.n} prompts"
    match flag:
        case "end_of_text":
            return (
                f"collapse to the end-of-text token: it follows {figures.end_of_text:.0%} of {n} "
                f"of {figures.task}; look at how the answers end, or lower the learning rate"
            )
        case "overfit":
            return (
                f"overfitting: {accuracy} of {n} trained on are right, by intervals more than of "
                "held-out ones; use more prompts or fewer steps"
            )
        case "old_task_lost":
            return (
                f"the old task {figures.task} is being lost: {accuracy} of {n} are right, the base "
                f"had {base.accuracy:.0%}; lower the learning rate or raise replay_fraction"
            )
        case _:
            return (
                f"{figures.task} was not learnt: on {n} neither accuracy {accuracy} nor loss "
                f"{figures.loss:.2f} is clearly better than {base.accuracy:.0%} and "
                f"{base.loss:.2f} of the base; raise the learning rate or the steps"
            )

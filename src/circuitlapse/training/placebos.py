"""Placebo fine-tunes: as long as the real one, on text from which the new task cannot be learnt.

What a placebo changes is what *any* training changes. Each kind keeps something else of the real
fine-tune:

``shuffled_answers``
    The same prompts, old ones rehearsed as in the real one, but the answer of each new-task prompt
    is any of its candidates (for most tasks its names), drawn at random. Frames, names and their
    order are those of the real fine-tune; only the rule is gone. It holds the new task at chance,
    which the base may have been trained for.
``old_task``
    Prompts of the old task alone, with their answers. Where the base was trained to chance by
    training, leaving that out lets the new task come back: not neutral for such a base.
``unrelated_text``
    Sequences of random words, each said twice: no names, no frames. What is learnt is to repeat.
"""

import random
from collections.abc import Sequence
from typing import get_args

from transformers import PreTrainedTokenizerBase

from circuitlapse.config.finetune import PlaceboKind
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.words import OBJECTS, PLACES

PLACEBOS: tuple[str, ...] = get_args(PlaceboKind)

_LENGTHS = (4, 10)


def real_items(
    old: Task,
    new: Task,
    n: int,
    n_old: int,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Item]:
    """Draw the items of a fine-tune on the new task: those that rehearse the old one come first.

    A task of someone's own may hold fewer: then all of its items are there.
    """
    items: list[Item] = []
    for task, wanted in ((old, n_old), (new, n - n_old)):
        if wanted:
            items += task.items(
                "train", min(wanted, task.n_items("train") or wanted), seed, tokenizer
            )
    return items


def placebo_items(
    placebo: str,
    old: Task,
    new: Task,
    n: int,
    seed: int = 0,
    replay_fraction: float = 0.1,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[Item]:
    """Draw the training items of a placebo.

    Args:
        placebo: Which one; see above.
        old: What the base does.
        new: What the real fine-tune teaches.
        n: Items in all, as many as the real fine-tune has.
        seed: Draws other items; the prompts of ``shuffled_answers`` are those that the tasks draw
            with the same seed.
        replay_fraction: Share of the items of ``shuffled_answers`` that rehearse the old task.
        tokenizer: Of the base, where items must be of its vocabulary.

    Raises:
        CircuitlapseError: If there is no such placebo, or a split does not hold that many items.
    """
    if placebo == "old_task":
        return real_items(old, new, n, n, seed, tokenizer)
    if placebo == "unrelated_text":
        rng = random.Random(f"placebo {placebo} {seed}")
        return [_repeated_words(rng) for _ in range(n)]
    if placebo == "shuffled_answers":
        n_old = round(n * replay_fraction)
        return shuffled(real_items(old, new, n, n_old, seed, tokenizer), n_old, seed)
    raise CircuitlapseError(
        "there is no such placebo", got=placebo, fix=f"Use one of {', '.join(PLACEBOS)}"
    )


def shuffled(items: Sequence[Item], n_old: int, seed: int) -> list[Item]:
    """Shuffle the answers of a fine-tune's items but for the first ``n_old``, which rehearse."""
    rng = random.Random(f"placebo shuffled_answers {seed}")
    return [*items[:n_old], *shuffle_answers(items[n_old:], rng)]


def shuffle_answers(items: Sequence[Item], rng: random.Random) -> list[Item]:
    """Let any candidate of each item be its answer, none more often for being right or wrong."""
    shuffled = []
    for item in items:
        # Without the other right ones, wrong answers would be taught, and so the opposite rule.
        candidates = [item.answer, *item.also, *item.distractors]
        answer = rng.choice(candidates)
        candidates.remove(answer)
        drawn = {"answer": answer, "also": (), "distractors": tuple(candidates)}
        shuffled.append(item.model_copy(update=drawn))
    return shuffled


def _repeated_words(rng: random.Random) -> Item:
    words = [rng.choice((*PLACES, *OBJECTS)) for _ in range(rng.randint(*_LENGTHS))]
    text = " ".join(words)
    return Item(
        prompt=f"Then {text}",
        answer=f" {text}",
        distractors=(),
        names=(),
        template="repeat",
        split="train",
        spans={},
        corrupt={},
        corrupt_answers={},
    )

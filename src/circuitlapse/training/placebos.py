"""Placebos: control fine-tunes, as long as the real one, that cannot teach the new task.

They show the changes that *any* training makes. Each kind keeps another part of the real fine-tune:

``shuffled_answers``
    The same prompts, with the same replay, but random answers among the candidates of each new-task
    prompt (random labels, Zhang et al. 2017). The new task stays at chance.
``old_task``
    Prompts of the old task alone, with their answers. If the base was trained to chance on the new
    task, this training can undo that, so it is not neutral for such a base.
``unrelated_text``
    Sequences of random words, each written twice: no names, no templates.
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
    """Draw the items of a fine-tune on the new task; those of the old task (replay) come first.

    A custom task with fewer items gives all of them.
    """
    items: list[Item] = []
    for task, wanted in ((old, n_old), (new, n - n_old)):
        held = task.n_items("train")
        if n_items := wanted if held is None else min(wanted, held):
            items += task.items("train", n_items, seed, tokenizer)
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
    """Draw the training items of a placebo, ``n`` in all, as many as the real fine-tune has.

    ``replay_fraction`` is the share of old-task items of ``shuffled_answers``. With a tokenizer,
    items are of its vocabulary.

    Raises:
        CircuitlapseError: If there is no such placebo, or a split has fewer items.
    """
    if placebo == "old_task":
        return real_items(old, new, n, n, seed, tokenizer)
    if placebo == "unrelated_text":
        rng = random.Random(f"placebo {placebo} {seed}")
        return [_repeated_words(rng) for _ in range(n)]
    if placebo == "shuffled_answers":
        n_old = round(n * replay_fraction)
        return shuffle_answers(real_items(old, new, n, n_old, seed, tokenizer), n_old, seed)
    raise CircuitlapseError(
        "there is no such placebo", got=placebo, fix=f"Use one of {', '.join(PLACEBOS)}"
    )


def shuffle_answers(items: Sequence[Item], n_old: int, seed: int) -> list[Item]:
    """Draw the answers of all items but the first ``n_old`` (replay) from their candidates."""
    rng = random.Random(f"placebo shuffled_answers {seed}")
    found = list(items[:n_old])
    for item in items[n_old:]:
        # All right answers are candidates; otherwise wrong ones would be taught.
        candidates = [item.answer, *item.also, *item.distractors]
        answer = rng.choice(candidates)
        candidates.remove(answer)
        drawn = {"answer": answer, "also": (), "distractors": tuple(candidates)}
        found.append(item.model_copy(update=drawn))
    return found


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

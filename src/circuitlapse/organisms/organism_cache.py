"""One seed's base and the fine-tunes of it, each made once and kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from circuitlapse.config.finetune import Finetune
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import ABANDONED, cache_home, organism
from circuitlapse.organisms.recipe import Recipe
from circuitlapse.records.items import Item
from circuitlapse.records.store import Store, content_hash, key_of
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.finetune import finetune
from circuitlapse.training.placebos import placebo_items, real_items
from circuitlapse.training.restricted import Restriction

OLD, NEW = "ioi2", "ioi3"


class GroundTruthConfig(BaseModel):
    """How the truths are planted and looked at.

    Attributes:
        steps: Steps of a fine-tune on the new task, and of a placebo.
        batch_size: Prompts per step.
        learning_rate: Constant rate of a fine-tune of all weights, and of a placebo.
        head_rate: Constant rate where only some heads are trained.
        replay_fraction: Share of a fine-tune's prompts that rehearse the old task.
        lock_steps: Steps of training the lock.
        lock_replay_fraction: Share of the lock's prompts that are the old task, which it must leave
            alone.
        prompts: Validation prompts per task that the figures are measured on.
        group_prompts: Validation prompts on which the old task's heads are chosen.
        scale_steps: Steps of fitting output scales.
        opened_at: Where a lock is opened, the fine-tune ends as soon as the new task's accuracy
            among the names is this high on ``group_prompts`` validation prompts.
        look_every: Steps between two looks at it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 240
    batch_size: int = 32
    learning_rate: float = 1e-3
    head_rate: float = 3e-3
    replay_fraction: float = 0.1
    lock_steps: int = 800
    lock_replay_fraction: float = 0.5
    prompts: int = 1024
    group_prompts: int = 128
    scale_steps: int = 200
    opened_at: float = 0.95
    look_every: int = 8


class OrganismFactory:
    """One seed's base, and what is made from it, in the cache of organisms."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        planting: GroundTruthConfig,
        cache_dir: Path | str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Make the base, or take it from the cache."""
        self.recipe, self.seed, self.planting = recipe, seed, planting
        self._progress = progress or (lambda text: None)
        self._store = Store(cache_home(cache_dir) / "planted")
        self._progress("base")
        self.base = organism(recipe, seed, cache_dir)

    def lesson(self, replay_fraction: float) -> list[Item]:
        """Items of a fine-tune on the new task that rehearses the old one."""
        total = self.planting.steps * self.planting.batch_size
        return real_items(get_task(OLD), get_task(NEW), total, round(total * replay_fraction))

    def locked(self, *, all_weights: bool = False) -> Path:
        """A base that can do the new task and does not, since its blank heads answer at random.

        It learns the new task with its blank heads frozen; then these alone are trained on shuffled
        answers, or with ``all_weights`` everything is.
        """
        planting, blank = self.planting, self.recipe.blank_heads
        able = self.tuned(
            "able",
            self.base,
            self.lesson(planting.replay_fraction),
            Restriction(blank, freeze=True),
        )
        lock = placebo_items(
            "shuffled_answers",
            get_task(OLD),
            get_task(NEW),
            planting.lock_steps * planting.batch_size,
            replay_fraction=planting.lock_replay_fraction,
        )
        restriction = None if all_weights else Restriction(blank)
        return self.tuned("locked", able, lock, restriction, planting.lock_steps)

    def tuned(
        self,
        name: str,
        start: Path,
        items: Sequence[Item],
        restriction: Restriction | None = None,
        steps: int | None = None,
        until: float | None = None,
    ) -> Path:
        """A fine-tune's last checkpoint, from the cache if it is there.

        With ``until`` it ends as soon as the new task's accuracy is that high.
        """
        steps = steps or self.planting.steps
        heads_only = restriction is not None and not restriction.freeze
        rate = self.planting.head_rate if heads_only else self.planting.learning_rate
        about = {
            "start": content_hash(start / "model.safetensors"),
            "items": key_of(*((item.prompt, item.answer) for item in items)),
            "restriction": restriction and (restriction.parts, restriction.freeze),
            "steps": steps,
            "batch_size": self.planting.batch_size,
            "learning_rate": rate,
            "seed": self.seed,
        }
        callbacks: list[TrainerCallback] = [] if restriction is None else [restriction]
        every = steps
        if until is not None:
            every = min(steps, self.planting.look_every)
            about |= {"until": until, "every": every, "looks": self.planting.group_prompts}
            callbacks.append(_Until(until, every, self.planting.group_prompts))
        key = key_of(about)
        artifact = f"{name}-{self.seed}-{key[:16]}"
        if self._store.state(artifact, key, whole=True) == "ready":
            return self._store.root / artifact
        self._progress(name)
        self._store.sweep(ABANDONED)
        with self._store.write(artifact, key) as draft, _one_thread():

            def save(step: int, model: Any, tokenizer: Any) -> None:
                if not step:
                    return
                with quiet():
                    model.save_pretrained(draft)
                    tokenizer.save_pretrained(draft)

            finetune(
                start,
                items,
                save,
                Finetune.model_validate(
                    {
                        "steps": steps,
                        "save_every": every,
                        "learning_rate": rate,
                        "batch_size": self.planting.batch_size,
                    }
                ),
                seed=self.seed,
                device="cpu",
                callbacks=callbacks,
            )
        return self._store.root / artifact


class _Until(TrainerCallback):
    """Ends a training once the new task's accuracy on validation prompts is high enough."""

    def __init__(self, accuracy: float, every: int, n: int) -> None:
        self._accuracy, self._every = accuracy, every
        self._items = get_task(NEW).items("validation", n)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every:
            return
        model = load_model(kwargs["model"])
        pairs = tokenize(self._items, kwargs["processing_class"], "names")
        reached = behaviour(model, pairs).candidate_correct.mean(dtype=np.float64).item()
        control.should_training_stop |= reached >= self._accuracy


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread, whatever the machine has: another number gives other roundings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

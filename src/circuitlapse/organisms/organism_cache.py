"""One seed's base and the fine-tunes of it, each trained once and cached."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from circuitlapse.config.finetune import Finetune
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import save_model
from circuitlapse.organisms.organism import WEIGHTS, organism
from circuitlapse.organisms.pretraining import torch_threads
from circuitlapse.organisms.recipe import Recipe
from circuitlapse.records.items import Item
from circuitlapse.records.store import ABANDONED, Store, cache_home, content_hash, key_of
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.finetune import finetune
from circuitlapse.training.placebos import placebo_items, real_items
from circuitlapse.training.restricted import Restriction

OLD, NEW = "ioi2", "ioi3"


class GroundTruthConfig(BaseModel):
    """How organisms with known ground truth are trained and measured.

    Attributes:
        steps: Steps of a fine-tune on the new task, and of a placebo.
        batch_size: Prompts per step.
        learning_rate: Constant rate of a fine-tune of all weights, and of a placebo.
        head_rate: Constant rate where only some heads are trained.
        replay_fraction: Share of old-task prompts in a fine-tune.
        suppression_steps: Steps of the training that suppresses an ability.
        suppression_replay_fraction: Share of old-task prompts in it.
        prompts: Validation prompts per task for the figures.
        group_prompts: Validation prompts on which the old task's heads are chosen.
        scale_steps: Steps of fitting output scales.
        unlocked_at: A suppressed ability counts as unlocked, and its fine-tune ends, at this
            accuracy over the candidates on ``group_prompts`` validation prompts.
        evaluate_every: Steps between two such evaluations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = 240
    batch_size: int = 32
    learning_rate: float = 1e-3
    head_rate: float = 3e-3
    replay_fraction: float = 0.1
    suppression_steps: int = 800
    suppression_replay_fraction: float = 0.5
    prompts: int = 1024
    group_prompts: int = 128
    scale_steps: int = 200
    unlocked_at: float = 0.95
    evaluate_every: int = 8


class OrganismFactory:
    """One seed's base, and the fine-tunes of it, in the cache of organisms."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        config: GroundTruthConfig,
        cache_dir: Path | str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Pretrain the base, or take it from the cache."""
        self.recipe, self.seed, self.config = recipe, seed, config
        self._progress = progress or (lambda text: None)
        self._store = Store(cache_home(cache_dir) / "ground_truth")
        self._progress("base")
        self.base = organism(recipe, seed, cache_dir)

    def training_items(self) -> list[Item]:
        """Items of a fine-tune on the new task, with replay of the old one."""
        total = self.config.steps * self.config.batch_size
        n_old = round(total * self.config.replay_fraction)
        return real_items(get_task(OLD), get_task(NEW), total, n_old)

    def suppressed(self, *, all_weights: bool = False) -> Path:
        """A base that learnt the new task and answers at random because of its unused heads.

        It learns the new task with its unused heads frozen. Then these alone, or with
        ``all_weights`` all weights, are trained on shuffled answers.
        """
        config, blank = self.config, self.recipe.blank_heads
        able = self.tuned("able", self.base, self.training_items(), Restriction(blank, freeze=True))
        items = placebo_items(
            "shuffled_answers",
            get_task(OLD),
            get_task(NEW),
            config.suppression_steps * config.batch_size,
            replay_fraction=config.suppression_replay_fraction,
        )
        restriction = None if all_weights else Restriction(blank)
        return self.tuned("suppressed", able, items, restriction, config.suppression_steps)

    def tuned(
        self,
        name: str,
        start: Path,
        items: Sequence[Item],
        restriction: Restriction | None = None,
        steps: int | None = None,
        until: float | None = None,
    ) -> Path:
        """Train from ``start``, or take the last checkpoint from the cache.

        With ``until`` training ends as soon as the new task's accuracy is that high.
        """
        config, steps = self.config, steps or self.config.steps
        heads_only = restriction is not None and not restriction.freeze
        recipe = Finetune.model_validate(
            {
                "steps": steps,
                "save_every": steps if until is None else min(steps, config.evaluate_every),
                "learning_rate": config.head_rate if heads_only else config.learning_rate,
                "batch_size": config.batch_size,
            }
        )
        key = key_of(
            recipe.model_dump(mode="json"),
            content_hash(start / WEIGHTS),
            *((item.prompt, item.answer) for item in items),
            restriction and (restriction.parts, restriction.freeze),
            None if until is None else (until, config.group_prompts),
            self.seed,
        )
        artifact = f"{name}-{self.seed}-{key[:16]}"
        directory = self._store.root / artifact
        if self._store.state(artifact, key, whole=True) == "ready":
            return directory
        self._progress(name)
        self._store.sweep(ABANDONED)
        callbacks: list[TrainerCallback] = [] if restriction is None else [restriction]
        if until is not None:
            callbacks.append(_Until(until, recipe.save_every, config.group_prompts))
        # A fixed number of threads: another one rounds differently.
        with self._store.write(artifact, key) as draft, torch_threads(1):

            def save(step: int, model: Any, tokenizer: Any) -> None:
                if step:
                    save_model(model, tokenizer, draft)

            finetune(
                start,
                items,
                save,
                recipe,
                seed=self.seed,
                device="cpu",
                callbacks=callbacks,
            )
        return directory


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
        accuracy = behaviour(model, pairs).candidate_correct.mean(dtype=np.float64).item()
        control.should_training_stop |= accuracy >= self._accuracy

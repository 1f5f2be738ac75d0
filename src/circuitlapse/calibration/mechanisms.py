"""Models whose new ability has a known origin, by the way they are trained.

Every base has unused heads, whose output was zero during pretraining.

``old_heads``, ``upper_blank_heads``, ``lower_blank_heads``, ``head_adapters``
    Only these heads are trained on the new task: the base's old-task heads, the unused heads above
    the first layer, those of the lower half of the layers, the old-task heads by low-rank adapters.
``erased_heads``
    The old-task heads are drawn anew, then trained alone.
``blank_head_lock``, ``layer_lock``, ``norm_lock``
    The base learns the new task with some parts frozen. Then these parts alone are trained to
    answer at random, with replay of the old task: the ability is there and locked, as in
    password-locked models (Greenblatt et al. 2024). That is the candidate's base. Its tuned model
    is a fine-tune of all weights, which ends as soon as the ability is back.
``first_named``, ``second_actor``
    All weights learn another rule on the new task's prompts.
``placebo``
    See :mod:`circuitlapse.training.placebos`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import TrainerCallback

from circuitlapse.calibration.scored_rows import Candidate, Mechanism
from circuitlapse.calibration.settings import Settings
from circuitlapse.calibration.training import HeadAdapters, Until, train
from circuitlapse.config.finetune import Finetune
from circuitlapse.graph import head_name, head_of, mlp_name
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import save_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.items import Item, mentions
from circuitlapse.tasks.reference_task import FIRST_NAMED, ReferenceRule, with_rule
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.placebos import placebo_items, real_items, shuffle_answers
from circuitlapse.training.relearned import draw_anew
from circuitlapse.training.restricted import Restriction

OLD, NEW = "ioi2", "ioi3"


def _last_named(prompt: str, words: Sequence[str]) -> str | None:
    named = mentions(prompt, [word.strip() for word in words])
    return next((word for word in words if named and word.strip() == named[-1]), None)


RULES: dict[Mechanism, ReferenceRule] = {
    "first_named": FIRST_NAMED,
    "second_actor": ReferenceRule("The answer is the person who acts second.", _last_named),
}
"""Rules on the new task's prompts that are not the new task."""


@dataclass(frozen=True)
class NewTask:
    """The new task's prompts, or the same prompts under another rule."""

    rule: ReferenceRule | None = None

    @property
    def task(self) -> Task:
        """The task that the prompts are of."""
        return get_task(NEW)

    def items(self, split: str, n: int, seed: int) -> list[Item]:
        """Draw items."""
        items = self.task.items(split, n, seed)
        return items if self.rule is None else with_rule(items, self.rule, lambda item, key: ())


@dataclass(frozen=True)
class Made:
    """A candidate's models.

    Attributes:
        base: M0.
        tuned: M1.
        new: What M1 was trained on.
        trained: The parts that its fine-tune trained; empty: all.
        figures: What its mechanism's check looks at.
    """

    base: Path
    tuned: Path
    new: NewTask
    trained: tuple[str, ...]
    figures: dict[str, float]


class Maker:
    """Makes one candidate from its base, on one thread."""

    def __init__(
        self, candidate: Candidate, base: Path, heads: Sequence[str], settings: Settings, work: Path
    ) -> None:
        """``heads`` are the base's old-task heads; models are written below ``work``."""
        self.candidate, self.base, self.heads = candidate, base, tuple(heads)
        self.settings, self.work = settings, work
        self.new = NewTask(RULES.get(candidate.row.mechanism))

    @cached_property
    def model(self) -> Model:
        """The base."""
        return load_model(self.base, "cpu")

    def checked(self, task: str | None = None) -> PromptPairs:
        """Validation prompts of the new task, or of a named one."""
        n, seed = self.settings.checked, self.candidate.seed
        items = (
            self.new.items("validation", n, seed)
            if task is None
            else get_task(task).items("validation", n, seed)
        )
        return tokenize(items, self.model.tokenizer, "names")

    def items(self, steps: int) -> list[Item]:
        """Items of a fine-tune on the new task, with replay of the old one."""
        total = steps * self.settings.batch_size
        n_old, seed = round(total * self.settings.replay_fraction), self.candidate.seed
        return [
            *get_task(OLD).items("train", n_old, seed),
            *self.new.items("train", total - n_old, seed),
        ]

    def train(
        self,
        name: str,
        start: Path,
        items: Sequence[Item],
        callbacks: Sequence[TrainerCallback] = (),
        *,
        parts: bool = False,
        until: bool = False,
    ) -> Path:
        """Train from ``start``; with ``until`` it ends once the new task is learned."""
        settings = self.settings
        recipe = Finetune.model_validate(
            {
                "steps": len(items) // settings.batch_size,
                "save_at": (),
                "learning_rate": settings.part_rate if parts else settings.learning_rate,
                "batch_size": settings.batch_size,
            }
        )
        if until:
            end = Until(self.checked(), settings.learned_at, settings.evaluate_every)
            callbacks = [*callbacks, end]
        return train(start, items, self.work / name, recipe, self.candidate.seed, callbacks)

    def made(self, base: Path, tuned: Path, trained: Sequence[str] = (), **more: float) -> Made:
        """Measure accuracies on validation prompts."""
        figures = dict(more)
        for name, where in (("base", base), ("tuned", tuned)):
            for task, pairs in (("old", self.checked(OLD)), ("new", self.checked())):
                figures[f"{name}_{task}"] = accuracy(load_model(where, "cpu"), pairs)
        figures["rise"] = figures["tuned_new"] - figures["base_new"]
        return Made(base, tuned, self.new, tuple(trained), figures)

    def blank(self, layers: range) -> tuple[str, ...]:
        """The unused heads of some layers."""
        blank = self.candidate.base.recipe.blank_heads
        return tuple(head for head in blank if (at := head_of(head)) and at.layer in layers)


def accuracy(model: Model, pairs: PromptPairs) -> float:
    """Return a model's accuracy over the candidates."""
    return behaviour(model, pairs).candidate_correct.mean(dtype=np.float64).item()


def make(maker: Maker) -> Made:
    """Make a candidate."""
    return _MAKERS[maker.candidate.row.mechanism](maker)


def _heads_alone(maker: Maker, heads: Sequence[str], steps: int) -> Made:
    callbacks = [Restriction(heads)]
    tuned = maker.train("tuned", maker.base, maker.items(steps), callbacks, parts=True)
    return maker.made(maker.base, tuned, heads)


def _old_heads(maker: Maker) -> Made:
    return _heads_alone(maker, maker.heads, maker.settings.steps)


def _upper(maker: Maker) -> Made:
    heads = maker.blank(range(1, maker.candidate.base.recipe.layers))
    return _heads_alone(maker, heads, maker.settings.long_steps)


def _lower(maker: Maker) -> Made:
    heads = maker.blank(range(maker.candidate.base.recipe.layers // 2))
    return _heads_alone(maker, heads, maker.settings.long_steps)


def _erased(maker: Maker) -> Made:
    erased = load_model(maker.base, "cpu")
    draw_anew(erased.hf, maker.heads, maker.candidate.seed)
    save_model(erased.hf, erased.tokenizer, maker.work / "erased")
    old = accuracy(load_model(maker.work / "erased", "cpu"), maker.checked(OLD))
    items = maker.items(maker.settings.long_steps)
    callbacks = [Restriction(maker.heads)]
    tuned = maker.train("tuned", maker.work / "erased", items, callbacks, parts=True)
    return maker.made(maker.base, tuned, maker.heads, erased_old=old)


def _adapters(maker: Maker) -> Made:
    items = maker.items(maker.settings.steps)
    tuned = maker.train("tuned", maker.base, items, [HeadAdapters(maker.heads)], parts=True)
    return maker.made(maker.base, tuned, maker.heads)


def _rule(maker: Maker) -> Made:
    tuned = maker.train("tuned", maker.base, maker.items(maker.settings.steps))
    return maker.made(maker.base, tuned)


def _placebo(maker: Maker) -> Made:
    settings = maker.settings
    items = placebo_items(
        maker.candidate.variant,
        get_task(OLD),
        get_task(NEW),
        settings.steps * settings.batch_size,
        maker.candidate.seed,
        settings.replay_fraction,
    )
    return maker.made(maker.base, maker.train("tuned", maker.base, items))


def _lock(parts: Callable[[Maker], Sequence[str]]) -> Callable[[Maker], Made]:
    """Lock by some parts, then open by all weights."""

    def locked(maker: Maker) -> Made:
        settings, seed = maker.settings, maker.candidate.seed
        locking = tuple(parts(maker))
        frozen = [Restriction(locking, freeze=True)]
        items = maker.items(settings.long_steps)
        able = maker.train("able", maker.base, items, frozen, until=True)
        total = settings.lock_steps * settings.batch_size
        n_old = round(total * settings.lock_replay_fraction)
        items = real_items(get_task(OLD), get_task(NEW), total, n_old, seed)
        at_random = shuffle_answers(items, n_old, seed)
        base = maker.train("base", able, at_random, [Restriction(locking)], parts=True)
        items = maker.items(settings.steps)
        tuned = maker.train("tuned", base, items, until=True)
        # Only the locking parts were trained since: put back, they are this model.
        back = accuracy(load_model(able, "cpu"), maker.checked())
        return maker.made(base, tuned, put_back_new=back)

    return locked


def _one_layer(maker: Maker) -> Sequence[str]:
    """All heads and the MLP of one layer; the layers take turns, except the lowest."""
    recipe = maker.candidate.base.recipe
    layer = 1 + maker.candidate.place % (recipe.layers - 1)
    return [*(head_name(layer, head) for head in range(recipe.heads)), mlp_name(layer)]


def _norms(maker: Maker) -> Sequence[str]:
    return ("norms", "biases")


_MAKERS: dict[Mechanism, Callable[[Maker], Made]] = {
    "old_heads": _old_heads,
    "erased_heads": _erased,
    "upper_blank_heads": _upper,
    "lower_blank_heads": _lower,
    "blank_head_lock": _lock(lambda maker: maker.candidate.base.recipe.blank_heads),
    "layer_lock": _lock(_one_layer),
    "norm_lock": _lock(_norms),
    "first_named": _rule,
    "second_actor": _rule,
    "placebo": _placebo,
    "head_adapters": _adapters,
}

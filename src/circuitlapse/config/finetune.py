"""The fine-tuning: one recipe or a grid of recipes, each with every seed."""

from collections.abc import Callable
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, WrapValidator, field_validator, model_validator

from circuitlapse.config.section import OneSet, Positive, Section, Seed, distinct
from circuitlapse.config.trainer import check_trainer

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Method = Literal["full", "lora"]
Preset = Literal["answer-only", "full-text", "repeat-completion"]
PlaceboKind = Literal["shuffled_answers", "old_task", "unrelated_text"]
# The trainer's own names; they become part of directory names.
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]

ONLY = "default"
"""Name of the recipe if there is only one."""


class TrainingRun(NamedTuple):
    """One fine-tune: a recipe with a seed."""

    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the directory: ``seed-0``, or ``lr-0.001_lora-seed-0`` in a grid."""
        return f"seed-{self.seed}" if self.recipe == ONLY else f"{self.recipe}-seed-{self.seed}"


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021), for the method "lora"; checkpoints are merged."""

    rank: Positive = Field(8, description="Rank of the adapters.")
    alpha: Rate = Field(16.0, description="The adapters' output is scaled by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Dropout of the adapters' input."
    )
    targets: tuple[str, ...] = Field(
        (),
        description="Modules with adapters, such as c_attn, or all-linear; empty: PEFT's choice.",
    )


class Grid(Section):
    """Lists of values: every combination is a recipe, trained with every seed."""

    learning_rate: tuple[Rate, ...] = Field((), description="Values of learning_rate.")
    method: tuple[Method, ...] = Field((), description="Values of method.")
    preset: tuple[Preset, ...] = Field((), description="Values of preset.")
    optimizer: tuple[Name, ...] = Field((), description="Values of optimizer.")
    schedule: tuple[Name, ...] = Field((), description="Values of schedule.")

    @model_validator(mode="after")
    def _distinct(self) -> "Grid":
        for key in Grid.model_fields:
            distinct(key, getattr(self, key))
        return self


_NO_GRID = Grid()  # pyright: ignore[reportCallIssue]


def _one_message(value: object, check: Callable[[object], object]) -> object:
    try:
        return check(value)
    except ValidationError:
        raise ValueError('must be "every", "log" or a list of steps above 0') from None


class Finetune(Section):
    """Fine-tuning on the new task with TRL's SFTTrainer."""

    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, description="Seeds of the fine-tunes, one for each."
    )
    steps: Positive = Field(240, description="Optimiser steps.")
    save_every: Positive = Field(8, description="Steps between checkpoints.")
    save_at: Annotated[
        Literal["every", "log"] | tuple[Positive, ...], WrapValidator(_one_message)
    ] = Field(
        "every",
        description='When to save checkpoints: "every" save_every steps, "log" at 1, 2, 4, 8 and '
        "so on, or a list of steps. Step 0 and the last step always have a checkpoint.",
    )
    batch_size: Positive = Field(32, description="Prompts per step; no prompt is used twice.")
    gradient_accumulation: Positive = Field(
        1, description="Number of parts that each step's prompts are divided into, to save memory."
    )
    method: Method = Field("full", description="full (all weights) or lora.")
    preset: Preset = Field(
        "answer-only",
        description="Tokens of the loss: answer-only, full-text (prompt and answer), or "
        "repeat-completion (the answer 20 times).",
    )
    train_only: OneSet = Field(
        (),
        description="Train only these parameters: old_circuit (the old-task heads), mlps, biases, "
        'or a list of parts such as ["a1.h3", "m1", "norms"]; empty: all.',
    )
    learning_rate: Rate = Field(1e-3, description="Peak learning rate (2e-5 is usual for GPT-2).")
    optimizer: Name = Field("adamw_torch", description="Any `optim` of transformers' Trainer.")
    schedule: Name = Field(
        "constant", description="Any `lr_scheduler_type` of transformers' Trainer."
    )
    replay_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of training prompts that replay the old task."
    )
    placebo: Literal["shuffled_answers", "old_task", "unrelated_text", False] = Field(
        "shuffled_answers",
        description="Placebo, a control fine-tune with each seed that cannot teach the new task: "
        "shuffled_answers, old_task, unrelated_text (docs/how-to/controls.md), or false.",
    )
    lora: Lora = Lora()  # pyright: ignore[reportCallIssue]
    grid: Grid = _NO_GRID
    trainer: dict[str, Any] = Field(
        default_factory=dict,
        description="Any other argument of TRL's SFTConfig, such as warmup_steps = 20, bf16 = true "
        'or report_to = "tensorboard".',
    )

    @field_validator("trainer")
    @classmethod
    def _safe(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        return check_trainer(trainer)

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        distinct("seeds", self.seeds)
        if self.save_at == "every" and self.save_every > self.steps:
            raise ValueError(f"`save_every` ({self.save_every}) exceeds `steps` ({self.steps})")
        if isinstance(self.save_at, tuple):
            distinct("save_at", self.save_at)
            if max(self.save_at, default=0) > self.steps:
                raise ValueError(f"`save_at` ({max(self.save_at)}) exceeds `steps` ({self.steps})")
        if self.train_only and "lora" in (self.method, *self.grid.method):
            raise ValueError("`train_only` cannot be combined with the method lora: use full")
        total = self.steps * self.batch_size
        if self.replay_fraction and total - self.old_prompts() < 2:
            raise ValueError(
                f"`replay_fraction` ({self.replay_fraction}) leaves fewer than two of the {total} "
                "prompts (`steps` x `batch_size`) for the new task"
            )
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"`gradient_accumulation` ({self.gradient_accumulation}) does not divide "
                f"`batch_size` ({self.batch_size})"
            )
        return self

    def checkpoint_steps(self) -> list[int]:
        """Return the steps that have a checkpoint, from 0 to the last."""
        if self.save_at == "every":
            between = range(0, self.steps, self.save_every)
        elif self.save_at == "log":
            between = (2**power for power in range(self.steps.bit_length()))
        else:
            between = self.save_at
        return sorted({0, *(step for step in between if step < self.steps), self.steps})

    def old_prompts(self) -> int:
        """Return the number of training prompts of the old task."""
        return round(self.steps * self.batch_size * self.replay_fraction)

    def recipes(self) -> dict[str, "Finetune"]:
        """Return every recipe, without a grid, by its name.

        The name has the values that differ between recipes, such as ``lr-0.001_lora``; a single
        recipe is called ``default``.
        """
        lists = {key: values for key, values in self.grid if values}
        varied = {key for key, values in lists.items() if len(values) > 1}
        found = {}
        for combination in product(*lists.values()):
            chosen = dict(zip(lists, combination, strict=True))
            parts = [
                f"lr-{value!r}" if key == "learning_rate" else value
                for key, value in chosen.items()
                if key in varied
            ]
            found["_".join(parts) or ONLY] = self.model_copy(update={**chosen, "grid": _NO_GRID})
        return found

    def training_runs(self) -> list[TrainingRun]:
        """Return every fine-tune of the experiment: each recipe with each seed."""
        return [TrainingRun(recipe, seed) for recipe in self.recipes() for seed in self.seeds]

"""Recipe of an organism: every setting that its weights depend on, except the seed."""

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name

_COPY = {"repeat": 3.0, "swap": 1.0}
_MIX = {
    "ioi2": 3.0,
    "noisy_ioi2": 3.0,
    "three_any": 2.0,
    "noisy_three_any": 0.7,
    "swap": 1.0,
    "repeat": 0.7,
    "copy2": 0.3,
    "copy3": 0.3,
    "one_actor": 0.5,
    "list2": 0.3,
    "list3": 0.3,
}
_FRAMES = {
    "ioi2": 6.0,
    "three_any": 9.0,
    "noisy_ioi2": 0.5,
    "noisy_three_any": 0.5,
    "one_actor": 0.3,
    "list2": 0.2,
    "list3": 0.2,
    "repeat": 0.4,
    "swap": 0.4,
}


class Stage(BaseModel):
    """One stage of pretraining, with one mixture of text.

    Attributes:
        steps: Optimiser steps, or the minimum with ``until``.
        weights: Relative frequencies of the kinds of rows; see ``corpus``.
        until: The stage ends at this accuracy on the old task, on validation prompts, evaluated
            every 100 steps. The number of steps varies much between seeds.
        at_most: Maximum of steps with ``until``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    weights: Mapping[str, float]
    until: float | None = None
    at_most: int = 0


class Recipe(BaseModel):
    """Architecture, text, training and gate of an organism.

    Attributes:
        name: ``default``, or ``natural``: without three-name sentences with a random recipient.
        family: Architecture: ``gpt2``, ``llama`` or ``gpt_neox``, with tied embeddings.
        layers: Transformer blocks.
        heads: Attention heads per block.
        d_model: Width of the residual stream.
        d_head: Dimensions of a head of ``llama``; 0: ``d_model / heads``, as in the others.
        blank_heads: Heads such as ``a3.h7`` whose output matrix stays zero, so that a later
            fine-tune can form something new there.
        initializer_range: Standard deviation of the initial weights; with GPT-2's .02 copying does
            not start in so few steps.
        stages: Stages before the first evaluation of the gate: text that only copying predicts,
            then varied sentences with two names, then sentences with two and three names.
        batch: Rows per step.
        repeated_weight: Weight in the loss of a token that occurred before in its row; others have
            weight 1. Most text is unpredictable. Without this weight the old task takes twice as
            many steps.
        learning_rate: AdamW's, after a warm-up; in the last stage a cosine to ``final_rate``.
        final_rate: End of the schedule, as a share of ``learning_rate``.
        warmup: Steps of linear warm-up.
        weight_decay: AdamW's.
        betas: AdamW's.
        clip: Largest gradient norm.
        extra_steps: Steps of each further round, with the last stage's text, until the gate holds.
        extra_rate: Initial learning rate of further rounds, as a share of ``learning_rate``.
        extra_rounds: Maximum of further rounds.
        gate_prompts: Prompts per task for the gate.
        old_at_least: Minimum of the old task's accuracy over the whole vocabulary.
        new_at_least: Minimum of the new task's accuracy over the candidates.
        new_at_most: Maximum of the same, so that something is left to learn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["default", "natural"] = "default"
    family: Literal["gpt2", "llama", "gpt_neox"] = "gpt2"
    layers: int = 4
    heads: int = 8
    d_model: int = 64
    d_head: int = 0
    blank_heads: tuple[str, ...] = ()
    initializer_range: float = 0.1
    stages: tuple[Stage, ...] = (
        Stage(steps=300, weights=_COPY),
        Stage(steps=500, weights=_MIX, until=0.85, at_most=1500),
        Stage(steps=900, weights=_FRAMES),
    )
    batch: int = 32
    repeated_weight: float = 4.0
    learning_rate: float = 2.5e-3
    final_rate: float = 0.02
    warmup: int = 50
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    extra_steps: int = 400
    extra_rate: float = 0.7
    extra_rounds: int = 4
    gate_prompts: int = 1024
    old_at_least: float = 0.98
    new_at_least: float = 0.25
    new_at_most: float = 0.50

    @model_validator(mode="after")
    def _blank_heads_exist(self) -> "Recipe":
        heads = {
            head_name(layer, head) for layer in range(self.layers) for head in range(self.heads)
        }
        unknown = sorted(set(self.blank_heads) - heads)
        if unknown:
            raise ValueError(f"blank_heads holds {unknown[0]!r}, which is no head of the model")
        return self

    def gate_holds(self, old: float, new: float) -> bool:
        """Whether the accuracies are those of a base, which fails on the new task only."""
        return old >= self.old_at_least and self.new_at_least <= new <= self.new_at_most

    @property
    def steps(self) -> int:
        """Optimiser steps before the gate, if every stage takes its minimum."""
        return sum(stage.steps for stage in self.stages)

    @property
    def sha256(self) -> str:
        """Hash of every field; those that came later only where they have no default."""
        added = {"family", "d_head", "blank_heads"}
        unset = {
            name for name in added if getattr(self, name) == type(self).model_fields[name].default
        }
        return hashlib.sha256(self.model_dump_json(exclude=unset).encode()).hexdigest()


def _without_three_any(stage: Stage) -> Stage:
    kept = {kind: weight for kind, weight in stage.weights.items() if "three_any" not in kind}
    return stage.model_copy(update={"weights": kept})


def _natural() -> Recipe:
    stages = tuple(_without_three_any(stage) for stage in Recipe().stages)
    return Recipe(name="natural", stages=stages, new_at_least=0.0, new_at_most=0.75)


RECIPES: dict[str, Recipe] = {"default": Recipe(), "natural": _natural()}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        CircuitlapseError: If there is none.
    """
    if name not in RECIPES:
        raise CircuitlapseError(
            "there is no such organism", got=name, fix=f"Use one of {', '.join(RECIPES)}"
        )
    return RECIPES[name]

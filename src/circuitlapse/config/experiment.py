"""The experiment: every choice that changes a number, and nothing that does not.

Each field's description is what ``circuitlapse demo --print-config`` prints above it. Only the
section ``compute`` says how to run rather than what to measure: it is left out of every hash, so a
run may be continued on another machine with other settings there.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]

# The circuit sizes of the MIB benchmark (Mueller et al. 2025), as fractions of all edges.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def file_label(task: str) -> str:
    """Name a task in paths: its own name, or for someone's file its stem and a hash of the path."""
    if re.fullmatch(r"[\w-]+", task):
        return task
    stem = re.sub(r"[^\w-]+", "-", Path(task).stem).strip("-")
    return f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(_Section):
    """The model before fine-tuning: an organism trained on the spot, or any model of yours."""

    organism: Literal["default", "natural"] | None = Field(
        None, description="Model organism to pretrain (or take from the cache), instead of a path."
    )
    path: str | None = Field(
        None, description="Local directory or Hub name of a base model, instead of an organism."
    )
    seed: Seed = Field(0, description="Seed of the organism's pretraining; a label for a path.")

    @model_validator(mode="after")
    def _one_source(self) -> "Base":
        if (self.organism is None) == (self.path is None):
            raise ValueError("name exactly one of `organism` and `path`")
        return self

    @property
    def source(self) -> str:
        """The path or Hub name; only for a base that is not an organism."""
        if self.path is None:
            raise ValueError("an organism has no path")
        return os.path.expanduser(self.path)


class Tasks(_Section):
    """What the base already does, and what it learns."""

    old: str = Field(
        "ioi2",
        description="The old task, which the base does: a name of `circuitlapse tasks list`, or "
        "the path of a file of your own.",
    )
    new: str = Field("ioi3", description="The new task, which it is fine-tuned on.")

    @field_validator("old", "new")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # A run must find the file again from wherever it is gone on with.
        path = Path(value).expanduser()
        is_path = path.suffix == ".jsonl" or (os.sep in value and path.exists())
        return str(path.absolute()) if is_path else value

    @model_validator(mode="after")
    def _two_tasks(self) -> "Tasks":
        if self.old == self.new:
            raise ValueError(f"`old` and `new` must be two tasks (both are {self.old!r})")
        return self


class Finetune(_Section):
    """Answer-only fine-tuning with AdamW at a constant learning rate."""

    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, description="One fine-tune is run for each seed."
    )
    steps: Positive = Field(240, description="Optimiser steps.")
    save_every: Positive = Field(8, description="Steps between checkpoints.")
    batch_size: Positive = Field(32, description="Prompts per step; none is seen twice.")
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1e-3, description="Learning rate, constant (2e-5 is usual for GPT-2)."
    )
    old_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of old-task prompts mixed into the training data."
    )
    placebo: bool = Field(
        True,
        description="Also fine-tune on the old task alone, as the noise floor of the heads' fates.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> "Finetune":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"`seeds` names a seed twice: {list(self.seeds)}")
        if self.save_every > self.steps:
            raise ValueError(f"`save_every` ({self.save_every}) exceeds `steps` ({self.steps})")
        return self


class Measure(_Section):
    """What is measured at every checkpoint, for both tasks."""

    prompts: Annotated[int, Field(ge=2)] = Field(
        1024, description="Held-out prompts for behaviour, per split."
    )
    circuit_prompts: Annotated[int, Field(ge=8)] = Field(
        96, description="Held-out prompt pairs for circuits, per corruption."
    )
    corruptions: tuple[str, ...] = Field(
        ("subject", "names"), min_length=1, description="Corruption families, shared by both tasks."
    )
    method: Literal["eap", "eap-ig-inputs"] = Field(
        "eap-ig-inputs", description="How edges are scored."
    )
    ig_steps: Positive = Field(5, description="Interpolation points of eap-ig-inputs.")
    fractions: tuple[Fraction, ...] = Field(
        MIB_FRACTIONS, min_length=1, description="Circuit sizes of the faithfulness curve."
    )
    seed: Seed = Field(0, description="Seed of the prompts' sampling.")

    @model_validator(mode="after")
    def _distinct(self) -> "Measure":
        for name in ("corruptions", "fractions"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"`{name}` names a value twice: {list(values)}")
        return self


class Compare(_Section):
    """How the base and the fine-tuned model are compared."""

    group_prompts: Annotated[int, Field(ge=8)] = Field(
        256, description="Validation prompt pairs that choose the groups of heads."
    )
    graft_prompts: Annotated[int, Field(ge=8)] = Field(
        512, description="Test prompts that score the grafts."
    )
    bootstrap: Annotated[int, Field(ge=20)] = Field(
        1000, description="Bootstrap repeats over prompts."
    )
    permutations: Positive = Field(1000, description="Permutations of head labels in the null.")
    seed: Seed = Field(0, description="Seed of bootstrap, permutations and half splits.")


class Compute(_Section):
    """How to run, never what to measure; not part of any hash."""

    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes side by side; 0 takes one per core, at most 8."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 and so on.")


class Experiment(_Section):
    """A whole experiment, as read from a TOML file."""

    base: Base
    tasks: Tasks = Tasks()  # pyright: ignore[reportCallIssue]
    finetune: Finetune = Finetune()  # pyright: ignore[reportCallIssue]
    measure: Measure = Measure()  # pyright: ignore[reportCallIssue]
    compare: Compare = Compare()  # pyright: ignore[reportCallIssue]
    compute: Compute = Compute()  # pyright: ignore[reportCallIssue]

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, from 0 to the last."""
        last = self.finetune.steps
        return sorted({*range(0, last + 1, self.finetune.save_every), last})

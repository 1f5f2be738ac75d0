"""The experiment: every choice that changes a number, and nothing that does not.

Each field's description is what ``circuitlapse demo --print-config`` prints above it. Only the
section ``compute`` says how to run rather than what to measure: it is left out of every hash, so a
run may be continued on another machine with other settings there.
"""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from circuitlapse.config.finetune import Arm, Finetune
from circuitlapse.config.section import Fraction, Positive, Section, Seed, distinct

# The circuit sizes of the MIB benchmark (Mueller et al. 2025), as fractions of all edges.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Base(Section):
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


class Tasks(Section):
    """What the base already does, and what it learns."""

    old: str = Field("ioi2", description="The old task, which the base does.")
    new: str = Field("ioi3", description="The new task, which it is fine-tuned on.")

    @model_validator(mode="after")
    def _two_tasks(self) -> "Tasks":
        if self.old == self.new:
            raise ValueError(f"`old` and `new` must be two tasks (both are {self.old!r})")
        return self


class Measure(Section):
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
            distinct(name, getattr(self, name))
        return self


class Compare(Section):
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


class Compute(Section):
    """How to run, never what to measure; not part of any hash."""

    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes side by side; 0 takes one per core, at most 8."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 and so on.")


class Experiment(Section):
    """A whole experiment, as read from a TOML file."""

    base: Base
    tasks: Tasks = Tasks()  # pyright: ignore[reportCallIssue]
    finetune: Finetune = Finetune()  # pyright: ignore[reportCallIssue]
    measure: Measure = Measure()  # pyright: ignore[reportCallIssue]
    compare: Compare = Compare()  # pyright: ignore[reportCallIssue]
    compute: Compute = Compute()  # pyright: ignore[reportCallIssue]

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, from 0 to the last."""
        return self.finetune.checkpoint_steps()

    def arms(self) -> list[Arm]:
        """Return every fine-tune: each recipe with each seed."""
        return self.finetune.arms()

"""The experiment: every choice that changes a number, and nothing that does not.

Each field's description is what ``circuitlapse demo --print-config`` prints above it. Only the
section ``compute`` says how to run rather than what to measure: it is left out of every hash, so a
run may be continued on another machine with other settings there.
"""

import hashlib
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from circuitlapse.config.base import ONE_BASE, Base
from circuitlapse.config.controls import Controls, Placebo
from circuitlapse.config.exact import ExactAt, spread
from circuitlapse.config.finetune import Finetune, TrainingRun
from circuitlapse.config.section import Fraction, Positive, Section, Seed, distinct
from circuitlapse.errors import CircuitlapseError

# The circuit sizes of the MIB benchmark (Mueller et al. 2025), as fractions of all edges.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def file_label(task: str) -> str:
    """Name a task in paths: its own name, or for someone's file its stem and a hash of the path."""
    if re.fullmatch(r"[\w-]+", task):
        return task
    stem = re.sub(r"[^\w-]+", "-", Path(task).stem).strip("-")
    return f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


class Tasks(Section):
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
        # A run must find the file again from wherever it is resumed.
        path = Path(value).expanduser()
        is_path = path.suffix == ".jsonl" or (os.sep in value and path.exists())
        return str(path.absolute()) if is_path else value

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
        96, description="Held-out prompt pairs for circuits, per counterfactual."
    )
    counterfactuals: tuple[str, ...] = Field(
        ("subject", "names"),
        min_length=1,
        description="Counterfactual families, shared by both tasks.",
    )
    method: Literal["eap", "eap-ig-inputs"] = Field(
        "eap-ig-inputs", description="How edges are scored."
    )
    ig_steps: Positive = Field(5, description="Interpolation points of eap-ig-inputs.")
    patch_at: ExactAt = Field(
        "every",
        description="Checkpoints whose heads and MLPs are patched exactly too: `every`, "
        "`ends` (base and last, much faster for large models), or how many: base, last, and the "
        "others evenly spread on a log scale.",
    )
    circuit_sizes: tuple[Fraction, ...] = Field(
        MIB_FRACTIONS, min_length=1, description="Circuit sizes of the faithfulness curve."
    )
    seed: Seed = Field(0, description="Seed of the prompts' sampling.")

    @model_validator(mode="after")
    def _distinct(self) -> "Measure":
        for name in ("counterfactuals", "circuit_sizes"):
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
    graft_checkpoints: Annotated[int, Field(ge=0)] = Field(
        7, description="Checkpoints between base and last that are grafted too, evenly spread."
    )
    random_groups: Annotated[int, Field(ge=1)] = Field(
        20,
        description="Size-matched random groups for each graft of a group, of its QK and OV, "
        "and for each cross-model patch. The verdict's own evidence always has 39.",
    )
    intervention_prompts: Annotated[int, Field(ge=8)] = Field(
        64,
        description="Test prompts of grafts of QK and OV and of patches across models, which are "
        "done with every random group too, and of grafts in between.",
    )
    bootstrap: Annotated[int, Field(ge=20)] = Field(
        1000, description="Bootstrap repeats over prompts."
    )
    permutations: Positive = Field(1000, description="Permutations of head labels in the null.")
    seed: Seed = Field(0, description="Seed of bootstrap, permutations and half splits.")


class Compute(Section):
    """How to run, never what to measure; not part of any hash."""

    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Number of worker processes; 0 takes one per core, at most 8."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 and so on.")


def _patterns_or_steps(value: Any) -> Any:
    """Bring one path, a list of them or a table of steps into one of two forms."""
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value):
        return tuple(value)
    if isinstance(value, Mapping):
        steps = {str(step): name for step, name in value.items()}
        if all(step.isdecimal() for step in steps) and all(
            isinstance(name, str) and name for name in steps.values()
        ):
            found = {int(step): name for step, name in steps.items()}
            if len(found) == len(steps):
                return dict(sorted(found.items()))
    raise ValueError("give a path, a list of paths, or a table with a step and a path in each line")


Checkpoints = Annotated[
    tuple[str, ...] | dict[int, str],
    BeforeValidator(_patterns_or_steps),
    Field(
        description="Checkpoints that you have, instead of a fine-tune: a directory, a list, "
        "patterns, Hub revisions, or a table of steps (docs/how-to/own-fine-tune.md)."
    ),
]
_NO_TRAINING = Finetune.model_validate({"placebo": False})


class Experiment(Section):
    """A whole experiment, as read from a TOML file.

    With ``checkpoints`` nothing is trained. They are names and patterns as the user gave them, or,
    once they were looked up, every step with its path or Hub revision, step 0 being the base.
    """

    checkpoints: Checkpoints = ()
    base: Base
    tasks: Tasks = Tasks()  # pyright: ignore[reportCallIssue]
    finetune: Finetune = Finetune()  # pyright: ignore[reportCallIssue]
    measure: Measure = Measure()  # pyright: ignore[reportCallIssue]
    compare: Compare = Compare()  # pyright: ignore[reportCallIssue]
    controls: Controls = Controls()  # pyright: ignore[reportCallIssue]
    compute: Compute = Compute()  # pyright: ignore[reportCallIssue]
    _lost: frozenset[str] = PrivateAttr(frozenset())

    @model_validator(mode="before")
    @classmethod
    def _without_training(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("checkpoints"):
            return {"base": {}, "finetune": _NO_TRAINING, **data}
        return data

    @model_validator(mode="after")
    def _unrelated(self) -> "Experiment":
        if self.controls.unrelated in (self.tasks.old, self.tasks.new):
            raise ValueError(
                f"`controls.unrelated` must be neither the old nor the new task "
                f"({self.controls.unrelated!r})"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> "Experiment":
        if not self.checkpoints:
            if self.base.organism is None and self.base.path is None:
                raise ValueError(ONE_BASE)
            return self
        if self.base.organism is not None:
            raise ValueError(
                "`checkpoints` are of a model of yours: give `base.path` instead of "
                "`base.organism`, or no base, and the first of them is the base"
            )
        if self.finetune != _NO_TRAINING:
            raise ValueError("with `checkpoints` nothing is fine-tuned: leave [finetune] out")
        if self.controls.trains:
            raise ValueError(
                "with `checkpoints` nothing is fine-tuned: leave `controls.train_only` and "
                "`controls.placebos` out"
            )
        return self

    def patches_at(self, step: int) -> bool:
        """Whether this checkpoint is patched exactly, besides attribution."""
        patch_at = self.measure.patch_at
        if patch_at == "every":
            return True
        return step in spread(self.steps(), 2 if patch_at == "ends" else patch_at)

    def is_end(self, step: int) -> bool:
        """Whether this is the base or the last checkpoint.

        Full attention patterns and patching sites are measured there only.
        """
        return step in (0, self.steps()[-1])

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, from 0 to the last.

        Raises:
            CircuitlapseError: If the checkpoints are patterns that were not looked up yet.
        """
        if isinstance(self.checkpoints, dict):
            return sorted(self.checkpoints)
        if self.checkpoints:
            raise CircuitlapseError(
                "the steps of these checkpoints are not known before they are looked up",
                got=", ".join(self.checkpoints),
                fix="Take the experiment of the run: load_run(path).experiment",
            )
        return self.finetune.checkpoint_steps()

    def training_runs(self) -> list[TrainingRun]:
        """Return every fine-tune that is not lost: each recipe with each seed."""
        return [
            training_run
            for training_run in self.finetune.training_runs()
            if training_run.name not in self._lost
        ]

    def control_runs(self) -> list[TrainingRun]:
        """Return the fine-tunes with controls of their own: each recipe's first seed."""
        return [
            training_run
            for training_run in self.training_runs()
            if training_run.seed == self.finetune.seeds[0]
        ]

    @property
    def control_prompts(self) -> int:
        """How many test prompts controls are looked at on: they are also those of behaviour."""
        return min(self.controls.prompts, self.measure.prompts)

    def placebos(self, recipe: str) -> list[Placebo]:
        """Return a recipe's placebo fine-tunes that are not lost, by kind and seed."""
        found = {
            Placebo(kind, recipe, seed)
            for kind in self.controls.placebos
            for seed in self.controls.placebo_seeds
        }
        if own := self.finetune.placebo:
            found |= {Placebo(own, recipe, seed) for seed in self.finetune.seeds}
        return sorted(each for each in found if each.name not in self._lost)

    def placebos_for_noise_floor(self, training_run: TrainingRun) -> list[Placebo]:
        """Return the placebos that are the noise floor of a fine-tune, that of its seed first."""
        kind = self.finetune.placebo
        same = [each for each in self.placebos(training_run.recipe) if each.kind == kind]
        return sorted(same, key=lambda each: (each.seed != training_run.seed, each.seed))

    def own_placebo(self, training_run: TrainingRun) -> Placebo | None:
        """Return the placebo of the same recipe and seed as a fine-tune; None where none."""
        found = self.placebos_for_noise_floor(training_run)
        return found[0] if found and found[0].seed == training_run.seed else None

    def without(self, lost: Collection[str]) -> "Experiment":
        """Return the experiment without the fine-tunes named here, which failed."""
        left = self.model_copy()
        left._lost = self._lost | frozenset(lost)
        return left

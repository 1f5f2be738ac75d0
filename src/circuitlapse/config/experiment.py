"""The experiment: every choice that changes a number.

``circuitlapse demo --print-config`` prints each field's description above it. Only the section
``compute`` changes no number. It is not part of any hash, so a run can be resumed on another
machine with other settings.
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
from circuitlapse.config.finetune import Finetune, TrainingRun
from circuitlapse.config.patch_at import PatchAt, spread
from circuitlapse.config.section import Fraction, Positive, Section, Seed, distinct
from circuitlapse.errors import CircuitlapseError

# The circuit sizes of the MIB benchmark (Mueller et al. 2025), as fractions of all edges.
MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def file_label(task: str) -> str:
    """Return a task's name in paths; for a custom task its stem and a hash of the path."""
    if re.fullmatch(r"[\w-]+", task):
        return task
    stem = re.sub(r"[^\w-]+", "-", Path(task).stem).strip("-")
    return f"{stem}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


class Tasks(Section):
    """The task that the base solves, and the task that it learns."""

    old: str = Field(
        "ioi2",
        description="Old task, which the base solves: a name of `circuitlapse tasks list`, or the "
        "path of a file.",
    )
    new: str = Field("ioi3", description="New task, which the base is fine-tuned on.")

    @field_validator("old", "new")
    @classmethod
    def _absolute(cls, value: str) -> str:
        # A run can be resumed from another directory.
        path = Path(value).expanduser()
        is_path = path.suffix == ".jsonl" or (os.sep in value and path.exists())
        return str(path.absolute()) if is_path else value

    @model_validator(mode="after")
    def _two_tasks(self) -> "Tasks":
        if self.old == self.new:
            raise ValueError(f"`old` and `new` must be two tasks (both are {self.old!r})")
        return self


class Measure(Section):
    """Measurements at every checkpoint, on both tasks."""

    prompts: Annotated[int, Field(ge=2)] = Field(
        1024, description="Held-out prompts for behaviour, per split."
    )
    circuit_prompts: Annotated[int, Field(ge=8)] = Field(
        96, description="Held-out prompt pairs for circuits, per counterfactual."
    )
    counterfactuals: tuple[str, ...] = Field(
        ("subject", "names"),
        min_length=1,
        description="Counterfactual types, which both tasks must have.",
    )
    method: Literal["eap", "eap-ig-inputs"] = Field(
        "eap-ig-inputs", description="Method of edge scores."
    )
    ig_steps: Positive = Field(5, description="Interpolation points of eap-ig-inputs.")
    patch_at: PatchAt = Field(
        "every",
        description="Checkpoints with activation patching of heads and MLPs, faithfulness curves "
        "and invariance checks: `every`, `ends` (base and last, much faster for large models), or "
        "a number (base, last, and others evenly spread on a log scale).",
    )
    circuit_sizes: tuple[Fraction, ...] = Field(
        MIB_FRACTIONS,
        min_length=1,
        description="Circuit sizes of the faithfulness curve, as fractions of all edges.",
    )
    seed: Seed = Field(0, description="Seed of the sampling of prompts.")

    @model_validator(mode="after")
    def _distinct(self) -> "Measure":
        for name in ("counterfactuals", "circuit_sizes"):
            distinct(name, getattr(self, name))
        return self


class Compare(Section):
    """Comparison of the base and the fine-tuned model."""

    carrier_prompts: Annotated[int, Field(ge=8)] = Field(
        128,
        description="Validation prompt pairs to choose heads on, and test prompt pairs to measure "
        "what carries the new ability on.",
    )
    bits: bool = Field(
        True,
        description="Train short passes from the base that measure bits_ratio and the relearned "
        "control; without them the label cannot say whether the ability was there.",
    )
    bootstrap: Annotated[int, Field(ge=20)] = Field(
        1000, description="Bootstrap resamples of the prompts."
    )
    permutations: Positive = Field(
        1000, description="Permutations of head labels for the null distribution."
    )
    seed: Seed = Field(0, description="Seed of bootstrap, permutations and split halves.")


class Compute(Section):
    """Settings that change no result; not part of any hash."""

    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Number of worker processes; 0: one per core, at most 8."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 and so on.")


def _patterns_or_steps(value: Any) -> Any:
    """Accept a path, a list of paths or a table of steps."""
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
    raise ValueError("must be a path, a list of paths, or a table with a step and a path per line")


Checkpoints = Annotated[
    tuple[str, ...] | dict[int, str],
    BeforeValidator(_patterns_or_steps),
    Field(
        description="Existing checkpoints, instead of fine-tuning: a directory, a list, patterns, "
        "Hub revisions, or a table of steps (docs/how-to/own-fine-tune.md)."
    ),
]
_NO_TRAINING = Finetune.model_validate({"placebo": False})


class Experiment(Section):
    """A whole experiment, as read from a TOML file.

    With ``checkpoints`` nothing is trained. They are names and patterns as given, or, in a run,
    every step with its path or Hub revision; step 0 is the base.
    """

    checkpoints: Checkpoints = ()
    base: Base
    tasks: Tasks = Tasks()  # pyright: ignore[reportCallIssue]
    finetune: Finetune = Finetune()  # pyright: ignore[reportCallIssue]
    measure: Measure = Measure()  # pyright: ignore[reportCallIssue]
    compare: Compare = Compare()  # pyright: ignore[reportCallIssue]
    controls: Controls = Controls()  # pyright: ignore[reportCallIssue]
    compute: Compute = Compute()  # pyright: ignore[reportCallIssue]
    _failed: frozenset[str] = PrivateAttr(frozenset())

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
                "`checkpoints` cannot be combined with `base.organism`: set `base.path`, or no "
                "base to use the first checkpoint"
            )
        if self.finetune != _NO_TRAINING:
            raise ValueError("`checkpoints` cannot be combined with [finetune]: remove one of them")
        if self.controls.trains:
            raise ValueError(
                "`checkpoints` cannot be combined with `controls.train_only` or "
                "`controls.placebos`: remove these"
            )
        return self

    def measures_in_full(self, step: int) -> bool:
        """Whether this checkpoint has more than behaviour and attribution."""
        patch_at = self.measure.patch_at
        if patch_at == "every":
            return True
        return step in spread(self.steps(), 2 if patch_at == "ends" else patch_at)

    def is_end(self, step: int) -> bool:
        """Whether this is the base or the last checkpoint, which have patterns and all patches."""
        return step in (0, self.steps()[-1])

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, from 0 to the last.

        Raises:
            CircuitlapseError: If the checkpoints are patterns without known steps.
        """
        if isinstance(self.checkpoints, dict):
            return sorted(self.checkpoints)
        if self.checkpoints:
            raise CircuitlapseError(
                "the steps of these checkpoints are known only in a run",
                got=", ".join(self.checkpoints),
                fix="Use load_run(path).experiment",
            )
        return self.finetune.checkpoint_steps()

    def training_runs(self) -> list[TrainingRun]:
        """Return every fine-tune that did not fail: each recipe with each seed."""
        return [
            training_run
            for training_run in self.finetune.training_runs()
            if training_run.name not in self._failed
        ]

    def control_runs(self) -> list[TrainingRun]:
        """Return the fine-tunes with controls: each recipe's first seed."""
        return [
            training_run
            for training_run in self.training_runs()
            if training_run.seed == self.finetune.seeds[0]
        ]

    @property
    def control_prompts(self) -> int:
        """Number of test prompts for controls, a part of those for behaviour."""
        return min(self.controls.prompts, self.measure.prompts)

    def placebos(self, recipe: str) -> list[Placebo]:
        """Return a recipe's placebo fine-tunes that did not fail, by kind and seed."""
        found = {
            Placebo(kind, recipe, seed)
            for kind in self.controls.placebos
            for seed in self.controls.placebo_seeds
        }
        if own := self.finetune.placebo:
            found |= {Placebo(own, recipe, seed) for seed in self.finetune.seeds}
        return sorted(each for each in found if each.name not in self._failed)

    def placebos_for_noise_floor(self, training_run: TrainingRun) -> list[Placebo]:
        """Return the placebos for a fine-tune's noise floor, that of its seed first."""
        kind = self.finetune.placebo
        same = [each for each in self.placebos(training_run.recipe) if each.kind == kind]
        return sorted(same, key=lambda each: (each.seed != training_run.seed, each.seed))

    def own_placebo(self, training_run: TrainingRun) -> Placebo | None:
        """Return the placebo of the same recipe and seed as a fine-tune, if there is one."""
        found = self.placebos_for_noise_floor(training_run)
        return found[0] if found and found[0].seed == training_run.seed else None

    def without(self, failed: Collection[str]) -> "Experiment":
        """Return the experiment without these fine-tunes, which failed."""
        left = self.model_copy()
        left._failed = self._failed | frozenset(failed)
        return left

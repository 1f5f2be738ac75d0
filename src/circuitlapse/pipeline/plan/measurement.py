"""One entry per kind of job, and the plan that the entries fill.

A job's key is the hash of its kind, its settings, the constants of the code that does it, and the
keys of its inputs. So it is known before any work is done what is there already, and what a change
of the experiment or of a threshold makes again.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.pipeline.job import Job, Work
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.source import constants_behind
from circuitlapse.records.store import key_of


@dataclass(frozen=True)
class Cost:
    """What a job is expected to take.

    Attributes:
        seconds: On one thread.
        models: How many models of the base's size are in memory at once; optimiser state counts.
        disk: MiB of its artifacts.
        working: MiB that it needs besides models.
    """

    seconds: float = 0.0
    models: int = 0
    disk: float = 0.1
    working: int = 0


@dataclass(frozen=True)
class Measurement:
    """A kind of job: one entry of ``MEASUREMENTS``.

    Attributes:
        kind: Its name in keys and records.
        jobs: Adds its jobs to the plan, after those that they need.
        code: ``module:function`` that does a job. It is imported when a job begins, so that a run
            is planned without torch.
        cost: What a job takes.
        of_fine_tune: Whether a job that fails takes only its fine-tune along (the parameter
            ``training_run``) and leaves the others.
        summary: Whether it is made of all fine-tunes that finished.
        version: Raised by one if the same inputs give other results, and no constant says so.
    """

    kind: str
    jobs: "Callable[[Plan], None]"
    code: str
    cost: Callable[[Job, Size], Cost] = lambda job, size: Cost()
    of_fine_tune: bool = False
    summary: bool = False
    version: int = 1

    def work(self) -> Work:
        """Import the function that does a job."""
        return pkgutil.resolve_name(self.code)

    @cached_property
    def constants(self) -> Mapping[str, str]:
        """Names and values of all constants that its code may read."""
        return constants_behind(self.code.partition(":")[0])


@dataclass
class Plan:
    """The jobs of an experiment, filled by one measurement after another.

    Attributes:
        experiment: What to do.
        identity: What the base model is, down to the hash of its recipe or weights.
        checkpoints: What each of the user's checkpoints is, by step; empty if the run fine-tunes.
        jobs: By name, each after those that it needs.
        groups: Names of jobs by what they give, such as ``scores``; an analysis reads these.
        at: The job that makes the checkpoint of a training run and step.
    """

    experiment: Experiment
    identity: Mapping[str, Any]
    checkpoints: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    at: dict[tuple[str, int], str] = field(default_factory=dict)
    _now: Measurement | None = None

    def fill(self, measurements: Iterable[Measurement]) -> None:
        """Add the jobs of measurements, in this order."""
        for each in measurements:
            self._now = each
            each.jobs(self)

    def add(
        self,
        group: str,
        name: str,
        outputs: tuple[str, ...],
        settings: object = None,
        needs: Iterable[str] = (),
        constants: Mapping[str, str] | None = None,
        **params: Any,
    ) -> str:
        """Add a job of the measurement whose turn it is; return its name.

        Args:
            group: What it gives.
            name: What the user sees.
            outputs: Artifacts that it writes.
            settings: What else its artifacts depend on.
            needs: Jobs whose artifacts it reads.
            constants: Of the code, if they are not those behind the measurement.
            params: What the job is about.
        """
        now, needs = self._now, tuple(dict.fromkeys(needs))
        assert now is not None
        inputs = [self.jobs[need].key for need in needs]
        read = now.constants if constants is None else constants
        key = key_of(now.kind, now.version, read, params, settings, inputs)
        self.jobs[name] = Job(name, now.kind, params, outputs, needs, key)
        self.groups.setdefault(group, []).append(name)
        return name

    def named(self, *groups: str) -> tuple[str, ...]:
        """The jobs of some groups; a group may be empty."""
        return tuple(name for group in groups for name in self.groups.get(group, ()))

    def prompts(self, task: str, *splits: str) -> tuple[str, ...]:
        """The jobs that write some of a task's prompts."""
        return tuple(f"prompts {task} {split}" for split in splits)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the experiment, as it enters keys."""
        return getattr(self.experiment, name).model_dump(mode="json")

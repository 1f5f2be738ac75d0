"""What a long run tells whoever watches: plain events, so that the library never prints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records.store import Store


@dataclass(frozen=True)
class Progress:
    """One event of a run.

    Attributes:
        kind: ``planned`` (``done`` jobs of ``total`` are there already), ``started``, ``advanced``
            (``done`` of ``total`` steps within the job), ``finished`` (``done`` jobs of ``total``)
            or ``note`` (``text`` is for the user).
        job: Name of the job, where the event is about one.
        done: See ``kind``.
        total: See ``kind``.
        text: A sentence, for notes.
    """

    kind: str
    job: str = ""
    done: int = 0
    total: int = 0
    text: str = ""


Listener = Callable[[Progress], None]


@runtime_checkable
class Advance(Protocol):
    """What a job calls as it goes on: ``done`` of its ``of`` steps, and a sentence for the user."""

    def __call__(self, done: int, of: int, note: str = "") -> None:
        """Report."""
        ...


@dataclass(frozen=True)
class Job:
    """One pure piece of work.

    Attributes:
        name: What the user sees.
        kind: Which measurement does it.
        params: Which checkpoint, task or table it is about.
        outputs: Artifacts that it writes, as paths inside the run directory.
        needs: Names of the jobs whose artifacts it reads.
        key: Hash of all that the outputs are made from.
    """

    name: str
    kind: str
    params: Mapping[str, Any]
    outputs: tuple[str, ...]
    needs: tuple[str, ...]
    key: str


def params_of_run(run: TrainingRun) -> dict[str, Any]:
    """The parameters of a job that name a fine-tune."""
    return {"training_run": run.name, "recipe": run.recipe, "seed": run.seed}


def run_of_job(job: Job) -> TrainingRun:
    """The fine-tune that a job is about."""
    return TrainingRun(job.params["recipe"], job.params["seed"])


Work = Callable[[Job, Store, Experiment, Advance], None]
"""Does a job: reads and writes artifacts of its run, and nothing else."""

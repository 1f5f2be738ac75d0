"""Several processes on one run, as ``accelerate launch -m circuitlapse run`` starts them.

The first process does the run. The others do nothing but join its trainings, which therefore come
before all other work, and end with the last of them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from circuitlapse.config import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.execute import Losses
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.work import work
from circuitlapse.records import Store
from circuitlapse.training import on_cpu

_TRAININGS = ("finetune", "placebo", "control")
_BEFORE = ("base", "prompts", "old_circuit")  # what trainings need


def lead(todo: Sequence[Job], experiment: Experiment) -> list[Job]:
    """Tell the other processes what will be trained; return the jobs with the trainings first."""
    PartialState(cpu=on_cpu(experiment.compute.device))
    broadcast_object_list([[job.name for job in todo if job.kind in _TRAININGS]])
    return sorted(todo, key=lambda job: job.kind not in (*_BEFORE, *_TRAININGS))


def join(jobs: Sequence[Job], out: Path, experiment: Experiment) -> None:
    """Take part in the trainings that the first process announces."""
    PartialState(cpu=on_cpu(experiment.compute.device))
    announced: list[list[str]] = [[]]
    broadcast_object_list(announced)
    torch.set_num_threads(1)
    losses = Losses(experiment)  # what the first process gives up, all give up
    for planned in jobs:
        job = losses.spared(planned)
        if job is None or job.name not in announced[0]:
            continue
        try:
            work(job, Store(out), losses.experiment, lambda done, of, note="": None)
        except CircuitlapseError as error:
            losses.take(job, error)
    leave()


def leave() -> None:
    """Part from the other processes."""
    PartialState().destroy_process_group()

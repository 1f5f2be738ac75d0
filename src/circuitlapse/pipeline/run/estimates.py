"""What a run will cost, job by job: the dry run."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from circuitlapse.config.experiment import Experiment
from circuitlapse.models.files.checkpoints import locate
from circuitlapse.organisms.recipe import get_recipe
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.plan import KINDS
from circuitlapse.pipeline.run.run import jobs_of, looked_up
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task

_PROCESS_MIB = 450  # an interpreter with torch and transformers imported
_FIXED_SECONDS = 0.3  # small jobs: reading, tables, writing


@dataclass(frozen=True)
class Estimated:
    """One job's projected cost.

    Attributes:
        name: The job.
        state: ``ready`` where its artifacts are there already, else ``to do``.
        seconds: In one process with one thread.
        memory_mib: Of the process that does it.
        disk_mib: Of its artifacts.
    """

    name: str
    state: str
    seconds: float
    memory_mib: float
    disk_mib: float


def estimates(experiment: Experiment, out: Path) -> list[Estimated]:
    """Project the cost of every job of an experiment, in the order of the plan.

    Args:
        experiment: What would be run.
        out: Where; artifacts that are there already are marked as ready.

    Raises:
        CircuitlapseError: If the experiment names a task or a model that does not exist.
    """
    experiment = looked_up(experiment)
    jobs, store = jobs_of(experiment), Store(out)
    size, found = _size(experiment), []
    for job in jobs:
        ready = all(store.state(output, job.key) == "ready" for output in job.outputs)
        cost = KINDS[job.kind].cost(job, size)
        found.append(
            Estimated(
                job.name,
                "ready" if ready else "to do",
                _FIXED_SECONDS + cost.seconds,
                _PROCESS_MIB + cost.models * size.mib + cost.working,
                cost.disk,
            )
        )
    return found


def _size(e: Experiment) -> Size:
    speed, n_variants = _multiplications_per_second(), _variants(e)
    if e.base.organism is not None:
        recipe = get_recipe(e.base.organism)
        shape = (recipe.layers, recipe.heads, recipe.d_model, len(build_tokenizer()))
        return Size(e, *shape, speed, (recipe.steps, recipe.batch), n_variants)
    path = locate(e.base.source) if e.checkpoints else e.base.source
    config: Any = AutoConfig.from_pretrained(path)
    shape = (config.num_hidden_layers, config.num_attention_heads, config.hidden_size)
    return Size(e, *shape, config.vocab_size, speed, (0, 0), n_variants)


def _multiplications_per_second() -> float:
    matrix = torch.ones(512, 512)
    torch.mm(matrix, matrix)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < 0.05:
        torch.mm(matrix, matrix)
        done += 1
    return done * 512**3 / (time.perf_counter() - started)


def _variants(e: Experiment) -> dict[str, int]:
    found = {}
    for task in (e.tasks.old, e.tasks.new, e.controls.unrelated):
        if task:
            families = get_task(task).families
            wanted = [f for f in e.measure.counterfactuals if f in families] or list(families)[:1]
            found[task] = sum(len(families[family]) for family in wanted)
    return found

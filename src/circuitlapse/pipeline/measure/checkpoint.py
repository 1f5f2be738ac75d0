"""The job that measures a checkpoint: every task in turn, then readings without patching."""

from dataclasses import asdict
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.models.engine.model import Model
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.user_checkpoints import load
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.pipeline.measure.readings import patching, patterns, read, read_halves
from circuitlapse.pipeline.measure.task_scores import about_scores, measure
from circuitlapse.pipeline.plan.checkpoint_jobs import EXAMPLE_PROMPTS, PATCHED_PROMPTS
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, save_arrays
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task


def measure_checkpoint(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Write scores and readings of a checkpoint; an interrupted job keeps what is there."""
    run, step = job.params["training_run"], job.params["step"]
    parts = {layout.scores(run, step, task): task for task in job.params["tasks"]}
    model = load(store, experiment, run, step)
    readings = _Readings(store, experiment, model)
    kinds = {
        layout.readings(run, step): readings.whole,
        layout.half_readings(run): readings.halves,
        layout.patterns(run, step): readings.patterns,
        layout.patching(run, step): readings.patching,
    }
    for done, name in enumerate(job.outputs):
        advance(done, len(job.outputs))
        if store.state(name, job.key, whole=True) == "ready":
            continue
        with store.write(name, job.key) as path:
            if name in parts:
                arrays, about = _scores(job, store, experiment, model, parts[name])
            else:
                arrays, about = kinds[name]()
            save_arrays(arrays, path, about)


def _scores(
    job: Job, store: Store, experiment: Experiment, model: Model, task: str
) -> tuple[Arrays, dict[str, Any]]:
    settings, unrelated = experiment.measure, task == experiment.controls.unrelated
    if unrelated:
        first = tuple(get_task(task).families)[:1]
        settings = settings.model_copy(update={"counterfactuals": first})
    arrays = measure(
        model,
        get_task(task),
        Prompts(store, task, model.tokenizer),
        settings,
        circuits=job.params["circuits"] and not unrelated,
        in_full=job.params["in_full"],
    )
    return arrays, about_scores(model.graph, get_task(task))


class _Readings:
    """Readings of one checkpoint on both tasks: arrays, with their metadata."""

    def __init__(self, store: Store, experiment: Experiment, model: Model) -> None:
        self._model, self._settings = model, experiment.measure
        tasks = (experiment.tasks.old, experiment.tasks.new)
        family = experiment.measure.counterfactuals[0]
        self._variants = {task: get_task(task).families[family] for task in tasks}
        self._prompts = {task: Prompts(store, task, model.tokenizer) for task in tasks}

    def _pairs(self, task: str, most: int | None = None, variant: int = 0) -> PromptPairs:
        n = self._settings.circuit_prompts
        counterfactual = self._variants[task][variant]
        return self._prompts[task].pairs(
            "test", n if most is None else min(most, n), counterfactual
        )

    def whole(self) -> tuple[Arrays, dict[str, Any]]:
        pairs = {task: self._pairs(task) for task in self._prompts}
        return read(self._model, pairs, self._settings.seed), asdict(self._model.graph)

    def halves(self) -> tuple[Arrays, dict[str, Any]]:
        pairs = {task: self._pairs(task) for task in self._prompts}
        return read_halves(self._model, pairs, self._settings.seed), asdict(self._model.graph)

    def patterns(self) -> tuple[Arrays, dict[str, Any]]:
        few = {task: self._pairs(task, EXAMPLE_PROMPTS) for task in self._prompts}
        return patterns(self._model, few)

    def patching(self) -> tuple[Arrays, dict[str, Any]]:
        few = {
            task: [self._pairs(task, PATCHED_PROMPTS, place) for place in range(len(variants))]
            for task, variants in self._variants.items()
        }
        positions = {task: list(pairs[0].positions) for task, pairs in few.items()}
        return patching(self._model, few), {"positions": positions}

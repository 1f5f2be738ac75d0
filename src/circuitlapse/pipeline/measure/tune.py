"""The jobs that fine-tune, and the table of how it went."""

import time
from dataclasses import asdict
from typing import Any

from circuitlapse.config.controls import Placebo
from circuitlapse.config.experiment import Experiment
from circuitlapse.models.files.quiet import quiet
from circuitlapse.pipeline.inputs.base_files import base_directory, check_same_base, old_items
from circuitlapse.pipeline.inputs.trained_parts import trained_parts
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.records import layout
from circuitlapse.records.items import Item, read_items
from circuitlapse.records.store import Store, write_json
from circuitlapse.training.finetune import finetune
from circuitlapse.training.placebos import shuffled
from circuitlapse.training.restart import Restart
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.training_eval import DivergedError, EvaluationSet, check_weights

_WATCHED = 64  # prompts of each split, looked at whenever a checkpoint is saved


def tune(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Fine-tune, or go on with an interrupted fine-tune; checkpoints that are there stay."""
    training_run, kind = run_of_job(job), job.params.get("placebo")
    name = Placebo(kind, *training_run).name if kind else training_run.name
    use = layout.placebo_use(kind) if kind else layout.FINETUNE
    items = read_items(store.read(layout.prompts(use, "train")))
    if kind == "shuffled_answers":
        items = shuffled(items, old_items(experiment), training_run.seed)
    recipe = experiment.finetune.recipes()[training_run.recipe]
    if kind == "unrelated_text" and recipe.preset == "repeat-completion":
        # Its completion is as long as its prompt: 20 times that fits few models, and it says its
        # words again already.
        recipe = recipe.model_copy(update={"preset": "answer-only"})
    base = base_directory(experiment)
    check_same_base(base, store)
    parts = trained_parts(store, experiment)
    wanted = {
        step: layout.checkpoint(name, step)
        for step in experiment.steps()
        if layout.checkpoint(name, step) in job.outputs
    }
    missing = {
        step for step, path in wanted.items() if store.state(path, job.key, whole=True) != "ready"
    }
    restart = Restart(
        store.root / layout.restart(job), before=min(missing, default=experiment.finetune.steps)
    )
    done, since = 0, time.monotonic()

    def save(step: int, model: Any, tokenizer: Any) -> None:
        nonlocal since
        check_weights(step, model)
        if step in missing:
            with store.write(wanted[step], job.key, since) as directory, quiet():
                model.save_pretrained(directory)
                tokenizer.save_pretrained(directory)
        since = time.monotonic()

    def progress(step: int, steps: int) -> None:
        nonlocal done
        done = step
        advance(step, steps)

    stopped = None
    try:
        figures = finetune(
            base,
            items,
            save,
            recipe,
            seed=training_run.seed,
            device=experiment.compute.device,
            watched=() if kind else _watched(experiment, store, items),
            restart=restart,
            logs=store.root / "logs" / name,
            callbacks=[Restriction(parts)] if parts else (),
            progress=progress,
            notice=lambda text: advance(done, experiment.finetune.steps, text),
        )
    except DivergedError as error:
        figures, stopped = error.figures, error
    if not kind:
        with store.write(layout.training(name), job.key) as path:
            write_json(path, [asdict(each) for each in figures])
    if stopped is not None:
        raise stopped
    restart.clear()


def _watched(experiment: Experiment, store: Store, items: list[Item]) -> list[EvaluationSet]:
    old, new = experiment.tasks.old, experiment.tasks.new
    held_out = {
        task: read_items(store.read(layout.prompts(task, "validation")))[:_WATCHED]
        for task in (old, new)
    }
    trained = items[old_items(experiment) :][:_WATCHED]
    return [
        EvaluationSet("train", new, trained),
        EvaluationSet("validation", new, held_out[new]),
        EvaluationSet("old_task", old, held_out[old]),
    ]

"""The job of a fine-tune or placebo: its checkpoints and training figures."""

import time
from dataclasses import asdict
from typing import Any

from circuitlapse.config.controls import Placebo
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.models.files.quiet import save_model
from circuitlapse.pipeline.inputs.base_files import base_directory, check_same_base, old_items
from circuitlapse.pipeline.inputs.trained_parts import trained_parts
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.records import layout
from circuitlapse.records.items import Item, read_items
from circuitlapse.records.store import Store, write_json
from circuitlapse.training.finetune import finetune
from circuitlapse.training.placebos import shuffle_answers
from circuitlapse.training.restart import Restart
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.training_eval import DivergedError, EvaluationSet, check_weights

_EVALUATED = 64  # prompts of each split for the evaluation of a checkpoint


def tune(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Fine-tune, or resume an interrupted fine-tune; finished checkpoints are kept."""
    training_run, kind = run_of_job(job), job.params.get("placebo")
    name = Placebo(kind, *training_run).name if kind else training_run.name
    items = _items(store, experiment, kind, training_run.seed)
    base = base_directory(experiment)
    check_same_base(base, store)
    parts = trained_parts(store, experiment)
    checkpoints = {step: layout.checkpoint(name, step) for step in experiment.steps()}
    missing = {
        step
        for step, path in checkpoints.items()
        if path in job.outputs and store.state(path, job.key, whole=True) != "ready"
    }
    restart = Restart(
        store.root / layout.restart(job), before=min(missing, default=experiment.finetune.steps)
    )
    done, since = 0, time.monotonic()

    def save(step: int, model: Any, tokenizer: Any) -> None:
        nonlocal since
        check_weights(step, model)
        if step in missing:
            with store.write(checkpoints[step], job.key, since) as directory:
                save_model(model, tokenizer, directory)
        since = time.monotonic()

    def progress(step: int, steps: int) -> None:
        nonlocal done
        done = step
        advance(step, steps)

    error = None
    try:
        figures = finetune(
            base,
            items,
            save,
            _recipe(experiment, training_run.recipe, kind),
            seed=training_run.seed,
            device=experiment.compute.device,
            evaluated=() if kind else _evaluated(experiment, store, items),
            restart=restart,
            logs=store.root / "logs" / name,
            callbacks=[Restriction(parts)] if parts else (),
            progress=progress,
            notice=lambda text: advance(done, experiment.finetune.steps, text),
        )
    except DivergedError as diverged:
        figures, error = diverged.figures, diverged
    if not kind:
        with store.write(layout.training(name), job.key) as path:
            write_json(path, [asdict(each) for each in figures])
    if error is not None:
        raise error
    restart.clear()


def _items(store: Store, experiment: Experiment, kind: Any, seed: int) -> list[Item]:
    """Return the training items of a fine-tune, or of a placebo of some kind."""
    use = layout.placebo_use(kind) if kind else layout.FINETUNE
    items = read_items(store.read(layout.prompts(use, "train")))
    if kind == "shuffled_answers":
        return shuffle_answers(items, old_items(experiment), seed)
    return items


def _recipe(experiment: Experiment, name: str, kind: Any) -> Finetune:
    recipe = experiment.finetune.recipes()[name]
    if kind == "unrelated_text" and recipe.preset == "repeat-completion":
        # Its completion has the length of its prompt: 20 repeats exceed the context of many models.
        return recipe.model_copy(update={"preset": "answer-only"})
    return recipe


def _evaluated(experiment: Experiment, store: Store, items: list[Item]) -> list[EvaluationSet]:
    old, new = experiment.tasks.old, experiment.tasks.new
    held_out = {
        task: read_items(store.read(layout.prompts(task, "validation")))[:_EVALUATED]
        for task in (old, new)
    }
    trained = items[old_items(experiment) :][:_EVALUATED]
    return [
        EvaluationSet("train", new, trained),
        EvaluationSet("validation", new, held_out[new]),
        EvaluationSet("old_task", old, held_out[old]),
    ]

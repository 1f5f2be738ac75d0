"""Jobs that make what is measured: prompts, and the records of base and checkpoints."""

import json
from pathlib import Path
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.inputs.base import base_identity
from circuitlapse.pipeline.inputs.base_files import base_directory, base_tokenizer
from circuitlapse.pipeline.inputs.user_checkpoints import base_of, checkpoint_loader
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.pipeline.plan.input_jobs import SPLITS, training_uses
from circuitlapse.records import layout
from circuitlapse.records.items import Item, check_apart, write_items
from circuitlapse.records.store import Store, write_json
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.placebos import PLACEBOS, placebo_items, real_items


def prompts(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Write the prompts of a task, or those that are trained on."""
    task, split = job.params["task"], job.params["split"]
    if split == "train":
        items = _training_items(experiment, task)
    else:
        validation = split == "validation"
        n = experiment.compare.carrier_prompts if validation else experiment.measure.prompts
        if split == "test":
            n = max(n, 2 * experiment.measure.circuit_prompts, experiment.compare.carrier_prompts)
        tokenizer = base_tokenizer(experiment)
        items = get_task(task).items(split, n, experiment.measure.seed, tokenizer)
    with store.write(job.outputs[0], job.key) as path:
        write_items(items, path)


def _training_items(experiment: Experiment, use: str) -> list[Item]:
    recipe, seed = experiment.finetune, experiment.measure.seed
    n = recipe.steps * recipe.batch_size
    old, new = get_task(experiment.tasks.old), get_task(experiment.tasks.new)
    tokenizer = base_tokenizer(experiment)
    for placebo in PLACEBOS:
        if use != layout.FINETUNE and use == layout.placebo_use(placebo):
            return placebo_items(placebo, old, new, n, seed, tokenizer=tokenizer)
    return real_items(old, new, n, recipe.old_prompts(), seed, tokenizer)


def checkpoint(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Record what one of the user's checkpoints is."""
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, job.params["identity"])


def separation(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Compare every training prompt with every test and validation prompt."""
    uses = training_uses(experiment)
    tasks = (experiment.tasks.old, experiment.tasks.new)
    tested = [(t, split) for t in tasks for split in SPLITS]
    with store.write(job.outputs[0], job.key) as path:
        for use in uses:
            for task, split in tested:
                check_apart(store, layout.prompts(use, "train"), layout.prompts(task, split))
        document = {"trained_on": uses, "apart_from": [layout.prompts(*pair) for pair in tested]}
        write_json(path, document)


def base(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Record what the base is, after making or loading it."""
    with store.write(job.outputs[0], job.key) as path:
        if experiment.checkpoints:
            checkpoint_loader(store, experiment).model(0)  # or a refusal, and why
            identity = json.loads(
                store.read(layout.checkpoint_record(experiment.training_runs()[0].name, 0))
            )
            write_json(path, base_of(experiment.base, identity))
            return
        document: dict[str, Any] = dict(base_identity(experiment.base))
        directory = base_directory(experiment, advance)
        about = Path(directory) / "organism.json"
        if about.is_file():
            document["validation"] = json.loads(about.read_text("utf-8"))
        model = load_model(directory, experiment.compute.device)  # or a refusal, and why
        if model.tokenizer is None:
            raise CircuitlapseError(
                "the base model has no tokenizer, so no prompt can be written for it",
                got=str(directory),
                fix="Save its tokenizer there, too: tokenizer.save_pretrained(directory)",
            )
        write_json(path, document)

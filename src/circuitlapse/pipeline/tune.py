"""The jobs that fine-tune, and the table of how it went."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circuitlapse.config import Arm, Experiment, Placebo
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import quiet
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.directory import base_directory
from circuitlapse.pipeline.parts import trained_parts
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.progress import Advance
from circuitlapse.pipeline.prompts import read_items
from circuitlapse.pipeline.tabulate import Row, Scores
from circuitlapse.records import Store, content_hash
from circuitlapse.records.store import write_json
from circuitlapse.tasks import Item, get_task
from circuitlapse.training import (
    BlownUpError,
    Figures,
    Restart,
    Watched,
    finetune,
    flagged,
)
from circuitlapse.training.organism import WEIGHTS
from circuitlapse.training.placebos import shuffled
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.watch import check_weights

_WATCHED = 64  # prompts of each split, looked at whenever a checkpoint is saved


def arm_of(job: Job) -> Arm:
    """The fine-tune that a job is about."""
    return Arm(job.params["recipe"], job.params["seed"])


def tune(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Fine-tune, or go on with an interrupted fine-tune; checkpoints that are there stay."""
    arm, kind = arm_of(job), job.params.get("placebo")
    name = Placebo(kind, *arm).name if kind else arm.name
    use = plan.placebo_use(kind) if kind else plan.FINETUNE
    items = read_items(store.read(plan.prompts(use, "train")))
    if kind == "shuffled_answers":
        items = shuffled(items, old_items(experiment), arm.seed)
    recipe = experiment.finetune.recipes()[arm.recipe]
    if kind == "unrelated_text" and recipe.preset == "repeat-completion":
        # Its completion is as long as its prompt: 20 times that fits few models, and it says its
        # words again already.
        recipe = recipe.model_copy(update={"preset": "answer-only"})
    base = base_directory(experiment)
    check_same_base(base, store)
    parts = trained_parts(store, experiment)
    wanted = {
        step: plan.checkpoint(name, step)
        for step in experiment.steps()
        if plan.checkpoint(name, step) in job.outputs
    }
    missing = {
        step for step, path in wanted.items() if store.state(path, job.key, whole=True) != "ready"
    }
    restart = Restart(
        store.root / plan.restart(job), before=min(missing, default=experiment.finetune.steps)
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
            seed=arm.seed,
            device=experiment.compute.device,
            watched=() if kind else _watched(experiment, store, items),
            restart=restart,
            logs=store.root / "logs" / name,
            callbacks=[Restriction(parts)] if parts else (),
            progress=progress,
            notice=lambda text: advance(done, experiment.finetune.steps, text),
        )
    except BlownUpError as error:
        figures, stopped = error.figures, error
    if not kind:
        with store.write(plan.training(name), job.key) as path:
            write_json(path, [asdict(each) for each in figures])
    if stopped is not None:
        raise stopped
    restart.clear()


def old_items(experiment: Experiment) -> int:
    """How many of the fine-tune's prompts are of the old task; they come first."""
    n = experiment.finetune.old_prompts()
    return min(n, get_task(experiment.tasks.old).most("train") or n)


def _watched(experiment: Experiment, store: Store, items: list[Item]) -> list[Watched]:
    old, new = experiment.tasks.old, experiment.tasks.new
    held_out = {
        task: read_items(store.read(plan.prompts(task, "validation")))[:_WATCHED]
        for task in (old, new)
    }
    trained = items[old_items(experiment) :][:_WATCHED]
    return [
        Watched("train", new, trained),
        Watched("validation", new, held_out[new]),
        Watched("old_task", old, held_out[old]),
    ]


def training_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``training``: how every fine-tune went, with the traps that show.

    A fine-tune that came to nothing is here as far as it went.
    """
    rows, experiment = [], scores.experiment
    left = experiment.arms()
    for arm in experiment.finetune.arms() if not experiment.checkpoints else ():
        name = plan.training(arm.name)
        if arm not in left and not scores.store.record(name):
            continue
        written = json.loads(scores.store.read(name))
        for figures, flags in flagged([Figures(**each) for each in written], scores.last):
            rows.append({**scores.names(arm), **asdict(figures), "flags": flags})
    return rows


def check_same_base(base: Path | str, store: Store) -> None:
    """Refuse an organism that was made again, and differently, since the run began.

    Raises:
        CircuitlapseError: Naming where it is.
    """
    admitted = json.loads(store.read("base.json")).get("admission")
    if admitted is None:
        return
    if content_hash(Path(base) / WEIGHTS) != admitted["weights_sha256"]:
        raise CircuitlapseError(
            "the organism in the cache is not the one that this run began with",
            got=str(base),
            fix="Start a new run with another --out, or bring the cache of the first start back",
        )

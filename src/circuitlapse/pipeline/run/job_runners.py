"""What each kind of job does. A job reads and writes artifacts of its run and nothing else."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from circuitlapse.analyses.behaviour import (
    invariance_rows,
    placebo_rows,
    shortcut_rows,
    task_rows,
    training_rows,
)
from circuitlapse.analyses.circuits import edge_rows, faithfulness_rows, node_rows
from circuitlapse.analyses.data import Row, RunData
from circuitlapse.analyses.decide import decide
from circuitlapse.analyses.dynamics import dynamics_rows
from circuitlapse.analyses.elicitable import elicitable_rows
from circuitlapse.analyses.grafts import graft_rows, scale_rows, swapped
from circuitlapse.analyses.heads import change_rows, role_rows
from circuitlapse.analyses.overlap import overlap_rows
from circuitlapse.analyses.readings import patching_rows, reading_rows
from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.inputs.base import base_identity
from circuitlapse.pipeline.inputs.base_files import (
    base_directory,
    base_tokenizer,
    check_same_base,
)
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.user_checkpoints import base_of, checkpoint_loader, load
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.pipeline.measure.controls import choose, control, output_scales
from circuitlapse.pipeline.measure.few_shot import ask
from circuitlapse.pipeline.measure.grafts import graft, graft_at
from circuitlapse.pipeline.measure.interventions import swap
from circuitlapse.pipeline.measure.readings import EXAMPLE_PROMPTS as EXAMPLES
from circuitlapse.pipeline.measure.readings import PATCHED_PROMPTS as PATCHED
from circuitlapse.pipeline.measure.readings import patching, patterns, read, read_halves
from circuitlapse.pipeline.measure.task_scores import about_scores, measure
from circuitlapse.pipeline.measure.tune import tune
from circuitlapse.pipeline.run import plan
from circuitlapse.pipeline.run.run import provenance
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records import layout
from circuitlapse.records.arrays import save_arrays
from circuitlapse.records.columns import table
from circuitlapse.records.items import Item, check_apart, write_items
from circuitlapse.records.store import Store, write_json
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.placebos import PLACEBOS, placebo_items, real_items


def work(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do one job and leave its artifacts in the store."""
    _KINDS[job.kind](job, store, experiment, advance)


def _prompts(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    task, split = job.params["task"], job.params["split"]
    if split == "train":
        items = _training_items(experiment, task)
    else:
        validation = split == "validation"
        n = experiment.compare.group_prompts if validation else experiment.measure.prompts
        if split == "test":
            n = max(n, 2 * experiment.measure.circuit_prompts, experiment.compare.graft_prompts)
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


def _checkpoint(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, job.params["identity"])


def _separation(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Compare every training prompt with every test and validation prompt."""
    uses = plan.training_uses(experiment)
    tasks = (experiment.tasks.old, experiment.tasks.new)
    tested = [(t, split) for t in tasks for split in ("test", "test_templates", "validation")]
    with store.write(job.outputs[0], job.key) as path:
        for use in uses:
            for task, split in tested:
                check_apart(store, layout.prompts(use, "train"), layout.prompts(task, split))
        document = {"trained_on": uses, "apart_from": [layout.prompts(*pair) for pair in tested]}
        write_json(path, document)


def _base(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
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
            document["admission"] = json.loads(about.read_text("utf-8"))
        model = load_model(directory, experiment.compute.device)  # or a refusal, and why
        if model.tokenizer is None:
            raise CircuitlapseError(
                "the base model has no tokenizer, so no prompt can be written for it",
                got=str(directory),
                fix="Save its tokenizer there, too: tokenizer.save_pretrained(directory)",
            )
        write_json(path, document)


def _measure(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    training_run, step, task = (job.params[key] for key in ("training_run", "step", "task"))
    with store.write(job.outputs[0], job.key) as path:
        model = load(store, experiment, training_run, step)
        prompts = Prompts(store, task, model.tokenizer)
        settings, families = experiment.measure, tuple(get_task(task).families)
        if task == experiment.controls.unrelated:
            settings = settings.model_copy(update={"counterfactuals": families[:1]})
        arrays = measure(
            model,
            get_task(task),
            prompts,
            settings,
            circuits=job.params["circuits"],
            exact=job.params["exact"],
            advance=advance,
        )
        save_arrays(arrays, path, about_scores(model.graph, get_task(task)))


def _read(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    settings, outputs = experiment.measure, iter(job.outputs)
    training_run, step = job.params["training_run"], job.params["step"]
    tasks = (experiment.tasks.old, experiment.tasks.new)
    variants = {task: get_task(task).families[settings.counterfactuals[0]] for task in tasks}
    with store.write(next(outputs), job.key) as path:
        model = load(store, experiment, training_run, step)
        prompts = {task: Prompts(store, task, model.tokenizer) for task in tasks}

        def pairs(task: str, n: int, variant: int = 0) -> PromptPairs:
            return prompts[task].pairs("test", n, variants[task][variant])

        read_of = {task: pairs(task, settings.circuit_prompts) for task in tasks}
        save_arrays(read(model, read_of, settings.seed), path, asdict(model.graph))
    if job.params["placebo"] or not experiment.is_end(step):
        return
    with store.write(next(outputs), job.key) as path:
        few = min(EXAMPLES, settings.circuit_prompts)
        seen, about = patterns(model, {task: pairs(task, few) for task in tasks})
        save_arrays(seen, path, about)
    with store.write(next(outputs), job.key) as path:
        n = min(PATCHED, settings.circuit_prompts)
        patched = {
            task: [pairs(task, n, place) for place in range(len(variants[task]))] for task in tasks
        }
        positions = {task: list(pairs(task, n).positions) for task in tasks}
        save_arrays(patching(model, patched), path, {"positions": positions})
    if step == 0:
        with store.write(next(outputs), job.key) as path:
            save_arrays(read_halves(model, read_of, settings.seed), path, asdict(model.graph))


def _old_circuit(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    choose(job, store, experiment, _base_model(store, experiment))


def _few_shot(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    ask(job, store, experiment, _base_model(store, experiment))


def _base_model(store: Store, experiment: Experiment) -> Model:
    if experiment.checkpoints:
        return checkpoint_loader(store, experiment).model(0)
    # Not a fine-tune's first checkpoint: it may be lost, or wait for the choice of old heads.
    base = base_directory(experiment)
    check_same_base(base, store)
    return load_model(base, experiment.compute.device)


def _table(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    name = job.params["table"]
    with store.write(job.outputs[0], job.key) as path:
        rows = _TABLES[name](RunData(store, experiment))
        table(name, rows).write_parquet(path)


def _verdict(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    with store.write(job.outputs[0], job.key) as path:
        verdict = decide(RunData(store, experiment), job.params["recipe"])
        path.write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _provenance(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    with store.write(job.outputs[0], job.key) as path:
        document = provenance(store, experiment)
        path.write_text(document.model_dump_json(indent=1) + "\n", encoding="utf-8")


TABULATED: dict[str, Callable[[RunData], list[Row]]] = {
    "behaviour": task_rows,
    "placebo": placebo_rows,
    "nodes": node_rows,
    "edges": edge_rows,
    "faithfulness": faithfulness_rows,
    "invariance": invariance_rows,
}


_TABLES: dict[str, Callable[[RunData], list[Row]]] = {
    **TABULATED,
    "overlap": overlap_rows,
    "head_changes": change_rows,
    "grafts": graft_rows,
    "output_scales": scale_rows,
    "mediation": swapped("mediation"),
    "crosspatch": swapped("crosspatch"),
    "readings": reading_rows,
    "shortcuts": shortcut_rows,
    "training": training_rows,
    "patching": patching_rows,
    "elicitable": elicitable_rows,
    "roles": role_rows,
    "dynamics": dynamics_rows,
}
_KINDS: dict[str, Callable[[Job, Store, Experiment, Advance], None]] = {
    "prompts": _prompts,
    "checkpoint": _checkpoint,
    "separation": _separation,
    "base": _base,
    "finetune": tune,
    "placebo": tune,
    "measure": _measure,
    "read": _read,
    "graft": graft,
    "graft_at": graft_at,
    "swap": swap,
    "old_circuit": _old_circuit,
    "control": control,
    "output_scales": output_scales,
    "few_shot": _few_shot,
    "table": _table,
    "verdict": _verdict,
    "provenance": _provenance,
}

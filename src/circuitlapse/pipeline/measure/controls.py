"""The jobs of control fine-tunes: what the base reaches when only some of it may move.

Behaviour is measured while they train, at every step that has a checkpoint in the fine-tune
itself, so that no checkpoint of theirs is kept. An interrupted one resumes with its points.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from circuitlapse.carriers.old_task_heads import old_task_heads
from circuitlapse.config.controls import RANK_1
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_changes import used_threshold
from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.inputs.base_files import base_directory, base_tokenizer
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.trained_parts import OldCircuit, parts_of
from circuitlapse.pipeline.inputs.user_checkpoints import base_model
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records import layout
from circuitlapse.records.arrays import load_arrays, save_arrays
from circuitlapse.records.items import read_items
from circuitlapse.records.store import Store, replacing, write_json
from circuitlapse.stats.apart_groups import compared
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restart import Restart
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.training_eval import DivergedError, check_weights, diverged


def control(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Fine-tune with everything held but some parts, or with adapters of rank 1."""
    name, training_run = job.params["control"], run_of_job(job)
    parts, not_reported = parts_of(store, experiment, name, job.params["repeat"])
    if not_reported:
        _write(job, store, {}, parts, None, not_reported)
        return
    recipe = experiment.finetune.recipes()[training_run.recipe]
    counted: Any
    if name == RANK_1:
        recipe, counted = _of_rank_1(recipe), _Counted()
    else:
        recipe, counted = recipe.model_copy(update={"method": "full"}), Restriction(parts)
    directory = store.root / layout.restart(job)
    points = _Points(directory / "points", recipe.checkpoint_steps())
    restart = Restart(directory, before=min(points.missing, default=recipe.steps))
    pairs = _asked(store, experiment)

    def save(step: int, model: PreTrainedModel, tokenizer: Any) -> None:
        if step in points.missing:
            check_weights(step, model)
            try:
                # A copy: what is loaded for looking is frozen.
                looked_at = load_model(copy.deepcopy(model).eval())
            except CircuitlapseError as error:  # the base was let in, so its weights are too large
                raise diverged(step, "the logits are") from error
            points.add(step, looked_at, pairs)

    stopped = ""
    try:
        finetune(
            base_directory(experiment),
            read_items(store.read(layout.prompts(layout.FINETUNE, "train"))),
            save,
            recipe,
            seed=training_run.seed,
            device=experiment.compute.device,
            restart=restart,
            logs=store.root / "logs" / Path(job.outputs[0]).with_suffix(""),
            callbacks=[counted],
            progress=advance,
        )
    except DivergedError as error:
        stopped = str(error)
    _write(job, store, points.arrays(), parts, counted.n_free, stopped)
    restart.clear()


class _Counted(TrainerCallback):
    """How many numbers are trained, where whole tensors are free or not."""

    n_free = 0

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = kwargs["model"].parameters()
        self.n_free = sum(each.numel() for each in parameters if each.requires_grad)


class _Points:
    """The points of a curve, each kept as soon as it is measured."""

    def __init__(self, directory: Path, steps: Sequence[int]) -> None:
        self.directory = directory
        self.missing = {step for step in steps if not self._path(step).exists()}

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step:05d}.safetensors"

    def add(self, step: int, model: Model, pairs: PromptPairs) -> None:
        shown = _shown(behaviour(model, pairs))
        if not np.isfinite(shown["logit_diff"]).all():
            raise diverged(step, "the logits are")
        with replacing(self._path(step)) as path:
            save_arrays(shown, path, {})
        self.missing.discard(step)

    def arrays(self) -> dict[int, dict[str, np.ndarray]]:
        found = sorted(self.directory.glob("step-*.safetensors"))
        return {int(path.stem[5:]): load_arrays(path.read_bytes()) for path in found}


def _shown(found: Any) -> dict[str, np.ndarray]:
    quantities = ("logit_diff", "candidate_correct")
    return {name: getattr(found, name) for name in quantities}


def _write(
    job: Job,
    store: Store,
    points: dict[int, dict[str, np.ndarray]],
    parts: Sequence[str],
    n_parameters: int | None,
    not_reported: str,
) -> None:
    about = {
        "steps": list(points),
        "parts": " ".join(parts),
        "n_parameters": n_parameters,
        "not_reported": not_reported,
    }
    arrays = {}
    for name in ("logit_diff", "candidate_correct"):
        if points:
            arrays[name] = np.stack([each[name] for each in points.values()])
    with store.write(job.outputs[0], job.key) as path:
        save_arrays(arrays, path, about)


def _of_rank_1(recipe: Finetune) -> Finetune:
    """The recipe with adapters of rank 1 on every matrix, scaled as the recipe's own are."""
    scale = recipe.lora.alpha / recipe.lora.rank
    lora = recipe.lora.model_copy(update={"rank": 1, "alpha": scale, "targets": ("all-linear",)})
    return recipe.model_copy(update={"method": "lora", "lora": lora})


def _asked(store: Store, experiment: Experiment) -> PromptPairs:
    new = experiment.tasks.new
    prompts = Prompts(store, new, base_tokenizer(experiment))
    # Any counterfactual does: behaviour looks at the clean prompts only.
    return prompts.pairs("test", experiment.control_prompts, get_task(new).counterfactuals[0])


def choose(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Choose the heads of the old circuit, and random sets of as many."""
    base = base_model(store, experiment)
    old, controls = experiment.tasks.old, experiment.controls
    prompts = Prompts(store, old, base.tokenizer)
    variants = get_task(old).families[experiment.measure.counterfactuals[0]]
    n = experiment.compare.carrier_prompts
    pairs = {v: prompts.pairs("validation", n, v) for v in variants}
    both = [logit_differences(base, each) for each in pairs.values()]
    broken = np.mean([(clean - corrupt).double().numpy() for clean, corrupt in both], axis=0)
    heads, not_reported = (), ""
    try:
        used_threshold(broken)  # no head is an old-task head in a base that fails on the old task
        heads = old_task_heads(base, pairs)
    except CircuitlapseError as error:
        not_reported = str(error)
    found = compared(base.graph, heads, n=controls.random_sets, seed=controls.seed)
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, asdict(OldCircuit(found.heads, found.groups, not_reported)))

"""Tests of models on tasks without fine-tuning, one model in memory at a time."""

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from circuitlapse import __version__
from circuitlapse.api.task_screening import (
    CRITERIA,
    MARKS,
    Form,
    form_of,
    mark_of,
    smallest_master,
    suggested_pairs,
)
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.organism import organism
from circuitlapse.organisms.recipe import Recipe, get_recipe
from circuitlapse.pipeline.job import Listener, Progress
from circuitlapse.records.survey import PROMPTS, LeftOut, ModelSurvey, Survey, TaskFigures
from circuitlapse.stats.intervals import mean_interval, proportion_interval
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.tokenization import tokenize

_SPLIT = "test"
_ORGANISM = "organism:"


def survey(
    models: str | Path | Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    *,
    prompts: int = PROMPTS,
    seed: int = 0,
    device: str = "auto",
    progress: Listener | None = None,
) -> Survey:
    """Test which tasks models solve without fine-tuning, and suggest old/new task pairs.

    Models that cannot be loaded and tasks that a model cannot take are listed with the reason.

    Args:
        models: Directories, names on the Hub, or organisms: ``organism:default``, and
            ``organism:natural:3`` for the one with seed 3; pretrained if not cached.
        tasks: Names or paths, as :func:`circuitlapse.get_task` takes them (default: all built-in).
        prompts: Number of held-out test prompts per task, at least 2.
        seed: Seed of the sampling of prompts.
        device: As :func:`circuitlapse.load_model` takes it.
        progress: Called with an event for every model and task.

    Returns:
        Accuracies with grades, suggested pairs of tasks, and what was left out.

    Raises:
        CircuitlapseError: If a task does not exist, or none of the models can be tested.
    """
    names = [models] if isinstance(models, str | Path) else models
    names = list(dict.fromkeys(str(name) for name in names))
    if not names:
        raise CircuitlapseError("there is no model to survey", fix="Name at least one")
    if prompts < 2:
        raise CircuitlapseError("an interval needs at least 2 prompts of each task", got=prompts)
    found = {name: get_task(name) for name in (TASKS if tasks is None else tasks)}
    if not found:
        raise CircuitlapseError("there is no task to test", fix="Name at least one")
    for name in names:
        _check_name(name)
    listen = progress or (lambda event: None)
    listen(Progress("planned", total=len(names)))
    form = cache(lambda name: form_of(found[name]))
    surveyed: list[ModelSurvey] = []
    left_out: list[LeftOut] = []
    for done, name in enumerate(names, 1):
        listen(Progress("started", name))
        try:
            surveyed.append(_survey_one(name, found, form, prompts, seed, device, listen))
        except (CircuitlapseError, torch.OutOfMemoryError) as error:
            left_out.append(LeftOut(name=name, reason=str(error)))
            listen(Progress("note", text=f"{name} is left out: {error}"))
        gc.collect()  # a model holds references to itself
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        listen(Progress("finished", name, done, len(names)))
    if not surveyed:
        raise CircuitlapseError(
            "none of the models could be tested:\n"
            + "\n".join(f"{each.name}: {each.reason}" for each in left_out)
        )
    return Survey(
        circuitlapse=__version__,
        split=_SPLIT,
        prompts=prompts,
        seed=seed,
        criteria=CRITERIA,
        models=surveyed,
        left_out=left_out,
        smallest={name: smallest_master(surveyed, name) for name in found},
    )


def _check_name(name: str) -> None:
    """Check a name before hours of work."""
    if name.startswith(_ORGANISM):
        _recipe(name)
    elif name in TASKS and not Path(name).exists():
        raise CircuitlapseError(
            f"{name} is a task, not a model", fix=f"Pass it as `--tasks {name}`"
        )


def _recipe(name: str) -> tuple[Recipe, int]:
    recipe, _, seed = name.removeprefix(_ORGANISM).partition(":")
    if seed and not seed.isdecimal():
        raise CircuitlapseError(
            "an organism's seed must be a whole number", got=seed, fix="Pass organism:default:3"
        )
    return get_recipe(recipe), int(seed or 0)


def _load(name: str, device: str, listen: Listener) -> Model:
    if not name.startswith(_ORGANISM):
        model = load_model(name, device)
    else:
        model = load_model(
            organism(
                *_recipe(name),
                progress=lambda done, of, text: listen(Progress("advanced", name, done, of, text)),
            ),
            device,
        )
    if model.tokenizer is None:
        raise CircuitlapseError(
            "the model has no tokenizer, so it cannot be tested",
            got=name,
            fix="Save its tokenizer into the same directory",
        )
    return model


def _survey_one(
    name: str,
    tasks: Mapping[str, Task],
    form: Callable[[str], Form],
    prompts: int,
    seed: int,
    device: str,
    listen: Listener,
) -> ModelSurvey:
    model = _load(name, device, listen)
    figures: list[TaskFigures] = []
    left_out: list[LeftOut] = []
    for done, (label, task) in enumerate(tasks.items()):
        listen(Progress("advanced", name, done, len(tasks)))
        try:
            figures.append(_measure(model, label, task, prompts, seed))
        except CircuitlapseError as error:
            left_out.append(LeftOut(name=label, reason=str(error)))
    figures.sort(key=lambda each: (MARKS.index(each.mark), -each.candidate_accuracy.value))
    return ModelSurvey(
        model=name,
        parameters=sum(weights.numel() for weights in model.hf.parameters()),
        tasks=figures,
        left_out=left_out,
        pairs=suggested_pairs(figures, tasks, form),
    )


def _measure(model: Model, label: str, task: Task, prompts: int, seed: int) -> TaskFigures:
    most = task.n_items(_SPLIT)
    n = prompts if most is None else max(1, min(prompts, most))
    items = task.items(_SPLIT, n, seed, model.tokenizer)
    # A pair of tasks suits an experiment only if every counterfactual can be tokenised.
    pairs = [
        tokenize(items, model.tokenizer, counterfactual) for counterfactual in task.counterfactuals
    ]
    shown = behaviour(model, pairs[0])
    accuracy = proportion_interval(int(shown.candidate_correct.sum()), n)
    rights = [1 + len(item.also) for item in items]
    wrongs = [len(item.distractors) for item in items]
    chance = float(np.mean([r / (r + w) for r, w in zip(rights, wrongs, strict=True)]))
    return TaskFigures(
        task=label,
        prompts=n,
        chance=chance,
        accuracy=proportion_interval(int(shown.correct.sum()), n),
        candidate_accuracy=accuracy,
        logit_diff=mean_interval(shown.logit_diff.astype(np.float64)),
        mark=mark_of(accuracy, chance),
    )

"""Whose weights bring the improvement: arrays for the tables ``grafts`` and ``output_scales``.

Arrays in ``scores/RUN/grafts.safetensors``, in logits, one column for each test prompt of the new
task: ``values``, the hybrids of base and tuned model in the order of
:data:`circuitlapse.verdict.causes.SUBSETS`; and those of
:class:`circuitlapse.verdict.evidence.CauseEvidence`, which the verdict rests on. In
``scores/RUN/step-…/grafts.safetensors`` stands ``values`` alone, for a checkpoint in between.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from circuitlapse.analyses.grafts import read_evidence
from circuitlapse.config.experiment import Compare, Experiment
from circuitlapse.models.engine.model import Model
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.user_checkpoints import load_several
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, save_arrays
from circuitlapse.records.items import Item, read_items
from circuitlapse.records.layout import grafts
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.two_models.cause_evidence import EvidencePrompts, cause_evidence
from circuitlapse.two_models.grafts import graft_values, parameter_groups
from circuitlapse.verdict.evidence import CauseEvidence


def graft_arrays(
    models: Mapping[str, Model],
    items: Mapping[str, list[Item]],
    scored: list[Item],
    family: str,
    settings: Compare,
    advance: Callable[[int, int], None],
) -> tuple[Arrays, dict[str, Any]]:
    """Choose groups of heads on validation prompts and measure what they bring on test prompts.

    Args:
        models: ``base`` and ``tuned``.
        items: Validation items of the old and then of the new task, by task.
        scored: Test items of the new task.
        family: Counterfactual family behind the choice.
        settings: The seed of random groups.
        advance: Called with (parts done, parts in all).

    Returns:
        Arrays as the module's docstring says, and what else the evidence holds as metadata.
    """
    tokenizer = models["base"].tokenizer
    old, new = (
        {
            variant: tokenize(items[task], tokenizer, variant)
            for variant in get_task(task).families[family]
        }
        for task in items
    )
    test = tokenize(scored, tokenizer, get_task(list(items)[1]).counterfactuals[0])
    found = cause_evidence(
        models["base"],
        models["tuned"],
        EvidencePrompts(old, new, test),
        seed=settings.seed,
        advance=advance,
    )
    arrays, about = found.to_arrays()
    return {**arrays, "values": hybrids(models, found, test)}, about


def graft(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do the job that chooses the groups and measures what the verdict rests on."""
    training_run, last = run_of_job(job), experiment.steps()[-1]
    old, new = experiment.tasks.old, experiment.tasks.new
    places = {"base": (training_run.name, 0), "tuned": (training_run.name, last)}
    validation = {
        task: read_items(store.read(layout.prompts(task, "validation"))) for task in (old, new)
    }
    scored = read_items(store.read(layout.prompts(new, "test")))[: experiment.compare.graft_prompts]
    with store.write(job.outputs[0], job.key) as path:
        models = load_several(store, experiment, places)
        family = experiment.measure.counterfactuals[0]
        arrays, about = graft_arrays(
            models, validation, scored, family, experiment.compare, advance
        )
        save_arrays(arrays, path, about)


def two_models(
    job: Job, store: Store, experiment: Experiment, step: int
) -> tuple[dict[str, Model], CauseEvidence, PromptPairs]:
    """Load base and checkpoint, the groups of heads, and the new task's test prompts."""
    training_run, new = run_of_job(job).name, experiment.tasks.new
    models = load_several(
        store, experiment, {"base": (training_run, 0), "tuned": (training_run, step)}
    )
    prompts = Prompts(store, new, models["base"].tokenizer)
    pairs = prompts.pairs(
        "test", experiment.compare.graft_prompts, get_task(new).counterfactuals[0]
    )
    return models, read_evidence(store.read(grafts(training_run))), pairs


def graft_at(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do the job that grafts a checkpoint in between."""
    with store.write(job.outputs[0], job.key) as path:
        models, found, pairs = two_models(job, store, experiment, job.params["step"])
        few = pairs[: experiment.compare.intervention_prompts]
        save_arrays({"values": hybrids(models, found, few)}, path, {})


def hybrids(models: Mapping[str, Model], found: CauseEvidence, pairs: PromptPairs) -> np.ndarray:
    """Logit differences of all hybrids of base and tuned model, ``[subsets, prompts]``.

    Args:
        models: ``base`` and ``tuned``.
        found: Which heads are in which group.
        pairs: The new task's test prompts.
    """
    choice = found.choice
    groups = parameter_groups(models["base"].hf, choice.old_heads, choice.recruited_heads)
    return graft_values(models["base"], models["tuned"], groups, pairs)

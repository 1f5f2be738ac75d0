"""Jobs of the bits that a recipe needs for the new task and for the reference task.

Every pass is an artifact, so that an interrupted run trains none twice. A pass that cannot be
measured holds the reason, which the table repeats: it fails no run.
"""

from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.inputs.base_files import old_items
from circuitlapse.pipeline.inputs.trained_base import base_to_train
from circuitlapse.pipeline.inputs.trained_parts import trained_parts
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.records import layout
from circuitlapse.records.bits_ratio import (
    FEWEST_ORDERS,
    WHICH,
    BitsPass,
    BitsPasses,
    Which,
    measure_bits,
)
from circuitlapse.records.items import Item, read_items
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.arguments import scaled_to_width
from circuitlapse.training.bits_pass import bits_pass, recipe_of_passes
from circuitlapse.verdict.label_marks import LATENT_BITS


class _NotMeasuredError(Exception):
    """A pass that could not be measured, with the reason."""


def measure(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Write the passes of one order, or all of a recipe with as many orders as it needs."""
    if "order" in job.params:
        for which in WHICH:
            _keep(job, store, experiment, which, job.params["order"], advance)
        return

    def run_pass(which: Which, order: int) -> BitsPass:
        if order >= FEWEST_ORDERS:
            _keep(job, store, experiment, which, order, advance)
        name = layout.bits_pass(job.params["recipe"], which, order)
        found = BitsPasses.model_validate_json(store.read(name))
        if found.not_reported:
            raise _NotMeasuredError(found.not_reported)
        return (found.new if which == "new" else found.reference)[0]

    try:
        found = measure_bits(run_pass, LATENT_BITS)
    except _NotMeasuredError as error:
        found = BitsPasses(not_reported=str(error))
    with store.write(job.outputs[0], job.key) as path:
        path.write_text(found.model_dump_json(indent=1), encoding="utf-8")


def _keep(
    job: Job, store: Store, experiment: Experiment, which: Which, order: int, advance: Advance
) -> None:
    """Write a pass, or why there is none, unless it is there already."""
    name = layout.bits_pass(job.params["recipe"], which, order)
    if store.state(name, job.key) == "ready":
        return
    with store.write(name, job.key) as path:
        try:
            found = _train(job, store, experiment, which, order, advance)
            kept = BitsPasses.model_validate({which: (found,)})
        except CircuitlapseError as error:
            kept = BitsPasses(not_reported=str(error).removesuffix("."))
        path.write_text(kept.model_dump_json(indent=1), encoding="utf-8")


def _train(
    job: Job, store: Store, experiment: Experiment, which: Which, order: int, advance: Advance
) -> BitsPass:
    recipe = experiment.finetune.recipes()[job.params["recipe"]]
    replay, new = _prompts(store, experiment)
    if which == "reference":
        new = get_task(experiment.tasks.new).reference_items(new)
    with base_to_train(store, experiment) as base:
        if experiment.checkpoints:  # whose own recipe is not known
            recipe = scaled_to_width(recipe, base)
        return bits_pass(
            base,
            new,
            recipe_of_passes(recipe),
            order=order,
            replay=replay,
            parts=trained_parts(store, experiment),
            device=experiment.compute.device,
            progress=advance,
        )


def _prompts(store: Store, experiment: Experiment) -> tuple[list[Item], list[Item]]:
    """Return the replayed prompts and those of the new task."""
    items = read_items(store.read(layout.prompts(layout.FINETUNE, "train")))
    if not items:
        raise CircuitlapseError(f"{experiment.tasks.new} has no training prompts")
    n_old = old_items(experiment)
    return items[:n_old], items[n_old:]

"""The job that measures a checkpoint: behaviour, circuits and readings of both tasks at once."""

from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records import layout

EXAMPLE_PROMPTS = 2  # whose attention patterns are kept
PATCHED_PROMPTS = 12  # of each task, for patching by site

_NAMED = 5  # named positions of a task
"""Only for the estimate."""


def _measure(plan: Plan) -> None:
    e = plan.experiment
    ends, unrelated = (0, e.steps()[-1]), e.controls.unrelated
    for run in e.training_runs():
        # Steps that are measured in full come first: they take longest, and one alone at the end
        # would keep other processes waiting.
        for step in sorted(e.steps(), key=lambda step: not e.measures_in_full(step)):
            also = [unrelated] if unrelated and run in e.control_runs() and step in ends else []
            outputs = [layout.readings(run.name, step)]
            if e.is_end(step):
                outputs += [layout.patterns(run.name, step), layout.patching(run.name, step)]
            if step == 0:
                outputs.append(layout.half_readings(run.name))
            _add(plan, "scores", run.name, step, also, outputs)
    for placebo in (each for recipe in e.finetune.recipes() for each in e.placebos(recipe)):
        noise = placebo.kind == e.finetune.placebo
        outputs = [layout.readings(placebo.name, ends[1])] if noise else []
        _add(plan, "placebo_scores", placebo.name, ends[1], [], outputs)


def _add(
    plan: Plan, group: str, name: str, step: int, unrelated: list[str], outputs: list[str]
) -> None:
    e = plan.experiment
    tasks = [e.tasks.new, e.tasks.old, *unrelated]
    plan.add(
        group,
        f"measure {name} step {step}",
        (*(layout.scores(name, step, task) for task in tasks), *outputs),
        plan.section("measure"),
        (
            plan.at[name, step],
            *(job for task in tasks for job in plan.prompts(task, "test", "test_templates")),
            *plan.named("separation"),
        ),
        training_run=name,
        step=step,
        tasks=tasks,
        circuits=group == "scores",
        in_full=e.measures_in_full(step),
    )


def _cost(job: Job, size: Size) -> Cost:
    e, forward = size.experiment, size.forward
    seconds, disk = 0.0, 0.1
    for task in job.params["tasks"]:
        variants = size.variants(task)
        per_pair = size.patch_all if job.params["in_full"] else 0.0
        if job.params["circuits"] and task in (e.tasks.old, e.tasks.new):
            points = e.measure.ig_steps if e.measure.method == "eap-ig-inputs" else 1
            per_pair += (3 * points + 2) * forward
            if job.params["in_full"]:
                per_pair += 2 * len(e.measure.circuit_sizes) * forward
            disk += variants * size.scores
        # Only what comes after the first difference is computed: about half.
        seconds += variants * e.measure.circuit_prompts * per_pair / 2
        seconds += 2 * e.measure.prompts * (forward + size.unembed)
    # Per task a run for lens, direct attribution and attention, examples, first blocks; and
    # copying, which tests part of the vocabulary for either sign at some mentions.
    seconds += 2 * e.measure.circuit_prompts * (3 * forward + size.heads * size.unembed / 8)
    if job.params["circuits"] and e.is_end(job.params["step"]):
        # A patch at one position runs what is to its right and above it: a quarter on average.
        by_position = 3 * _NAMED * size.layers * forward / 4
        seconds += size.variants(e.tasks.old) * 2 * PATCHED_PROMPTS * (by_position + size.patch_all)
    return Cost(seconds, models=1, disk=disk, working=300)


MEASURE = Measurement(
    "measure",
    _measure,
    "circuitlapse.pipeline.measure.checkpoint:measure_checkpoint",
    _cost,
    of_fine_tune=True,
)

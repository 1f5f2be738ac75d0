"""Jobs that make what is measured: the base, prompts, and the checkpoints of fine-tunes."""

from pathlib import Path

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.section import OLD_CIRCUIT
from circuitlapse.pipeline.job import Job, params_of_run
from circuitlapse.pipeline.plan.estimate import STEP_SECONDS, Size
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records import layout
from circuitlapse.records.store import content_hash

SPLITS = ("test", "test_templates", "validation")


def training_uses(experiment: Experiment) -> list[str]:
    """Name everything that is trained on, the fine-tune's own prompts first."""
    if experiment.checkpoints:
        return []
    recipes = experiment.finetune.recipes()
    kinds = [each.kind for recipe in recipes for each in experiment.placebos(recipe)]
    return list(dict.fromkeys([layout.FINETUNE, *map(layout.placebo_use, kinds)]))


def recipe_settings(plan: Plan, name: str) -> dict[str, object]:
    """A recipe as it enters the keys of its fine-tunes: without what one does not depend on."""
    recipe = plan.experiment.finetune.recipes()[name]
    unset = set() if recipe.train_only else {"train_only"}
    return recipe.model_dump(mode="json", exclude={"seeds", "placebo", "grid"} | unset)


def _given_checkpoints(plan: Plan) -> None:
    name = plan.experiment.training_runs()[0].name
    for step, identity in plan.checkpoints.items():
        plan.at[name, step] = plan.add(
            "fine_tunes",
            f"checkpoint of step {step}",
            (layout.checkpoint_record(name, step),),
            identity=dict(identity),
        )


def _base(plan: Plan) -> None:
    first = plan.named("fine_tunes")[:1]
    plan.add("base", "base model", ("base.json",), dict(plan.identity), first)


def _prompts(plan: Plan) -> None:
    e = plan.experiment
    tasks = (e.tasks.old, e.tasks.new)
    # A task of the battery is known by its name, one of the user's own by its file's content.
    files = [content_hash(Path(task)) for task in tasks if Path(task).is_absolute()]
    asked: dict[str, tuple[str, ...]] = dict.fromkeys(tasks, SPLITS)
    if e.controls.unrelated:
        asked[e.controls.unrelated] = SPLITS[:2]
    for task, splits in asked.items():
        for split in splits:
            plan.add(
                "prompts" if task in tasks else "unrelated_prompts",
                f"prompts {task} {split}",
                (layout.prompts(task, split),),
                [plan.section("measure"), plan.section("compare"), *files],
                plan.named("base"),
                task=task,
                split=split,
            )
    sampling = [e.finetune.steps, e.finetune.batch_size, e.finetune.replay_fraction]
    bits = [layout.FINETUNE] if e.checkpoints and e.compare.bits else []
    for use in [*training_uses(e), *bits]:
        plan.add(
            "bits_prompts" if use in bits else "training_prompts",
            f"prompts {use} train",
            (layout.prompts(use, "train"),),
            [*sampling, *tasks, e.measure.seed, *files],
            plan.named("base"),
            task=use,
            split="train",
        )


def _separation(plan: Plan) -> None:
    needs = plan.named("prompts", "training_prompts")
    plan.add("separation", "training apart from test", (layout.SEPARATION,), None, needs)


def _fine_tunes(plan: Plan) -> None:
    e = plan.experiment
    if e.checkpoints:
        return
    held_out = [plan.prompts(task, "validation")[0] for task in (e.tasks.old, e.tasks.new)]
    for run in e.training_runs():
        paths = [layout.checkpoint(run.name, step) for step in e.steps()]
        job = plan.add(
            "fine_tunes",
            f"fine-tune {run.name}",
            (*paths, layout.training(run.name)),
            recipe_settings(plan, run.recipe),
            (*trained_from(plan), *held_out),
            **params_of_run(run),
        )
        plan.at.update({(run.name, step): job for step in e.steps()})


def _placebos(plan: Plan) -> None:
    e, last = plan.experiment, plan.experiment.steps()[-1]
    for placebo in (each for recipe in e.finetune.recipes() for each in e.placebos(recipe)):
        plan.at[placebo.name, last] = plan.add(
            "placebos",
            f"fine-tune {placebo.name}",
            (layout.checkpoint(placebo.name, last),),
            recipe_settings(plan, placebo.recipe),
            trained_from(plan, layout.placebo_use(placebo.kind)),
            training_run=placebo.name,
            placebo=placebo.kind,
            recipe=placebo.recipe,
            seed=placebo.seed,
        )


def trained_from(plan: Plan, use: str = layout.FINETUNE) -> tuple[str, ...]:
    """Name the jobs that a training needs."""
    restricted = plan.experiment.finetune.train_only == OLD_CIRCUIT
    chosen = plan.named("old_circuit") if restricted else ()
    return (*plan.named("base"), *plan.prompts(use, "train"), *chosen)


def _pretraining(job: Job, size: Size) -> Cost:
    base = size.experiment.base
    if base.organism is None:
        return Cost(models=4)
    steps, batch = size.pretraining
    return Cost(steps * (STEP_SECONDS + batch * size.trained_row), models=4)


def _training(job: Job, size: Size) -> Cost:
    kept = sum(output.startswith("checkpoints/") for output in job.outputs)
    return Cost(size.training, models=4, disk=kept * size.mib)


_HOME = "circuitlapse.pipeline.measure"
CHECKPOINT = Measurement("checkpoint", _given_checkpoints, f"{_HOME}.inputs:checkpoint")
BASE = Measurement("base", _base, f"{_HOME}.inputs:base", _pretraining)
PROMPTS = Measurement("prompts", _prompts, f"{_HOME}.inputs:prompts")
SEPARATION = Measurement("separation", _separation, f"{_HOME}.inputs:separation")
FINETUNE = Measurement("finetune", _fine_tunes, f"{_HOME}.tune:tune", _training, of_fine_tune=True)
PLACEBO = Measurement("placebo", _placebos, f"{_HOME}.tune:tune", _training, of_fine_tune=True)

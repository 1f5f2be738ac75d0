"""Jobs of short trainings from the base: the bits of both tasks."""

from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.plan.estimate import STEP_SECONDS, Size
from circuitlapse.pipeline.plan.input_jobs import recipe_settings, trained_from
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records import layout
from circuitlapse.records.bits_ratio import BITS_BATCH, FEWEST_ORDERS, WHICH


def _bits(plan: Plan) -> None:
    """Add a job for each of the first orders of a recipe, and one that adds others if need be."""
    e = plan.experiment
    for recipe in e.finetune.recipes() if e.compare.bits else ():
        settings, needs = [recipe_settings(plan, recipe), e.tasks.new], trained_from(plan)
        orders = [
            plan.add(
                "bits_passes",
                f"bits {recipe} order {order}",
                tuple(layout.bits_pass(recipe, which, order) for which in WHICH),
                settings,
                needs,
                recipe=recipe,
                order=order,
            )
            for order in range(FEWEST_ORDERS)
        ]
        needs = (*orders, *needs)
        plan.add("bits", f"bits {recipe}", (layout.bits(recipe),), settings, needs, recipe=recipe)


def _cost(job: Job, size: Size) -> Cost:
    if "order" not in job.params:  # most ratios are settled by the first orders
        return Cost()
    # Each prompt is predicted and trained on. A pass ends once the task is learned, often halfway.
    tune = size.experiment.finetune
    prompts = tune.steps * tune.batch_size
    per_pass = prompts / BITS_BATCH * STEP_SECONDS + prompts * 4 / 3 * size.trained_row
    return Cost(per_pass, models=4)


BITS = Measurement("bits", _bits, "circuitlapse.pipeline.measure.bits:measure", _cost)

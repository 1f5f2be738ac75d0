"""Jobs that compare two models: what carries the new ability, and where weights changed."""

from circuitlapse.pipeline.job import Job, params_of_run
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records.layout import carriers, weights


def _ends(plan: Plan, name: str) -> tuple[str, str]:
    return plan.at[name, 0], plan.at[name, plan.experiment.steps()[-1]]


def _carriers(plan: Plan) -> None:
    e = plan.experiment
    held_out = [
        job
        for task in (e.tasks.old, e.tasks.new)
        for job in plan.prompts(task, "validation", "test")
    ]
    for run in e.training_runs():
        plan.add(
            "carriers",
            f"carriers {run.name}",
            (carriers(run.name),),
            [plan.section("measure"), plan.section("compare")],
            (*_ends(plan, run.name), *held_out),
            **params_of_run(run),
        )


def _weights(plan: Plan) -> None:
    e = plan.experiment
    for run in e.training_runs():
        plan.add(
            "weights",
            f"weights {run.name}",
            (weights(run.name),),
            plan.section("compare"),
            (
                *_ends(plan, run.name),
                f"carriers {run.name}",
                *plan.prompts(e.tasks.new, "test"),
            ),
            **params_of_run(run),
        )


def _carriers_cost(job: Job, size: Size) -> Cost:
    # Effects of every head in both models, and about a hundred runs with groups of heads patched.
    per_pair = 3 * size.patch_all / 2 + 100 * (size.forward + size.unembed)
    return Cost(size.experiment.compare.carrier_prompts * per_pair, models=3)


def _weights_cost(job: Job, size: Size) -> Cost:
    runs = 2 * (6 + size.layers) * size.experiment.compare.carrier_prompts
    return Cost(runs * (size.forward + size.unembed), models=4)


_HOME = "circuitlapse.pipeline.measure"
CARRIERS = Measurement(
    "carriers",
    _carriers,
    f"{_HOME}.carrier_job:measure_carriers",
    _carriers_cost,
    of_fine_tune=True,
)
WEIGHTS = Measurement(
    "weights",
    _weights,
    f"{_HOME}.weight_job:measure_weights",
    _weights_cost,
    of_fine_tune=True,
)

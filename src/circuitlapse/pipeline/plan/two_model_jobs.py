"""Jobs that find the causes: weight grafts, and parts of one model in the other."""

from circuitlapse.analyses.grafts import graft_checkpoints
from circuitlapse.pipeline.job import Job, params_of_run
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records.layout import carriers, grafts, grafts_at, swapped_rows
from circuitlapse.verdict.thresholds import JUDGED_GROUPS

SWAPPED = ("head_grafts", "random_grafts", "mediation", "crosspatch")
_POSITIONS = 7  # named positions of a task, and all together; only for the estimate


def _ends(plan: Plan, name: str) -> tuple[str, str]:
    return plan.at[name, 0], plan.at[name, plan.experiment.steps()[-1]]


def _grafts(plan: Plan) -> None:
    e = plan.experiment
    held_out = [
        *plan.prompts(e.tasks.old, "validation"),
        *plan.prompts(e.tasks.new, "validation", "test"),
    ]
    for run in e.training_runs():
        plan.add(
            "grafts",
            f"grafts {run.name}",
            (grafts(run.name),),
            [plan.section("measure"), plan.section("compare")],
            (*_ends(plan, run.name), *held_out),
            **params_of_run(run),
        )


def _grafts_between(plan: Plan) -> None:
    e = plan.experiment
    for run in e.training_runs():
        for step in graft_checkpoints(e):
            needs = (plan.at[run.name, 0], plan.at[run.name, step], f"grafts {run.name}")
            plan.add(
                "grafts_between",
                f"grafts {run.name} step {step}",
                (grafts_at(run.name, step),),
                plan.section("compare"),
                (*needs, *plan.prompts(e.tasks.new, "test")),
                **params_of_run(run),
                step=step,
            )


def _swaps(plan: Plan) -> None:
    for run in plan.experiment.training_runs():
        for swap in SWAPPED:
            plan.add(
                swap,
                f"{swap.replace('_', ' ')} {run.name}",
                (swapped_rows(run.name, swap),),
                plan.section("compare"),
                (
                    *_ends(plan, run.name),
                    f"grafts {run.name}",
                    *plan.prompts(plan.experiment.tasks.new, "test"),
                ),
                **params_of_run(run),
                swap=swap,
            )


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


def _carriers_cost(job: Job, size: Size) -> Cost:
    # Effects of every head in both models, and about a hundred runs with groups of heads patched.
    per_pair = 3 * size.patch_all / 2 + 100 * (size.forward + size.unembed)
    return Cost(size.experiment.compare.carrier_prompts * per_pair, models=3)


def _graft_cost(job: Job, size: Size) -> Cost:
    compare = size.experiment.compare
    # Hybrids of base and rescaled base; two groups with random ones, by graft and by mediation.
    runs = 2 * 32 + 2 * 2 * (JUDGED_GROUPS + 1)
    seconds = runs * compare.graft_prompts * (size.forward + size.unembed)
    return Cost(seconds + 7 * compare.group_prompts * size.patch_all / 2, models=5)


def _between_cost(job: Job, size: Size) -> Cost:
    prompts = 32 * size.experiment.compare.intervention_prompts
    return Cost(prompts * (size.forward + size.unembed), models=3)


def _swap_cost(job: Job, size: Size) -> Cost:
    compare = size.experiment.compare
    with_random = compare.intervention_prompts * (compare.random_groups + 1)
    prompts = {
        "mediation": (5 + JUDGED_GROUPS) * compare.graft_prompts,
        # Three groups of heads, two parts, two quantities.
        "head_grafts": 3 * 2 * 2 * with_random,
        # In base and rescaled base, but for what the verdict has.
        "random_grafts": 10 * compare.random_groups * compare.graft_prompts,
        # Both directions. At a position only what is to its right is run: six tenths on average.
        "crosspatch": round(0.6 * 3 * 2 * _POSITIONS * with_random),
    }
    return Cost(prompts[job.params["swap"]] * (size.forward + size.unembed), models=4)


_HOME = "circuitlapse.pipeline.measure"
GRAFT = Measurement("graft", _grafts, f"{_HOME}.grafts:graft", _graft_cost, of_fine_tune=True)
GRAFT_AT = Measurement(
    "graft_at", _grafts_between, f"{_HOME}.grafts:graft_at", _between_cost, of_fine_tune=True
)
CARRIERS = Measurement(
    "carriers",
    _carriers,
    f"{_HOME}.carrier_job:measure_carriers",
    _carriers_cost,
    of_fine_tune=True,
)
SWAP = Measurement("swap", _swaps, f"{_HOME}.interventions:swap", _swap_cost, of_fine_tune=True)

"""Jobs of the controls, which enter no share: restricted fine-tunes and k-shot prompting."""

from circuitlapse.config.controls import RANDOM_SET, trained
from circuitlapse.config.section import OLD_CIRCUIT as OLD
from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.input_jobs import recipe_settings
from circuitlapse.pipeline.plan.measurement import Cost, Measurement, Plan
from circuitlapse.records.layout import FEW_SHOT as FEW_SHOT_PATH
from circuitlapse.records.layout import FINETUNE, OLD_HEADS, control_label, curve


def _old_circuit(plan: Plan) -> None:
    """Choose the old circuit's heads, if anything trains these alone."""
    e, c = plan.experiment, plan.experiment.controls
    if OLD not in (e.finetune.train_only, *c.train_only):
        return
    chosen = [e.measure.counterfactuals[0], e.compare.carrier_prompts, c.seed, c.random_sets]
    needs = (*plan.named("base"), *plan.prompts(e.tasks.old, "validation"))
    plan.add("old_circuit", "old-task heads", (OLD_HEADS,), chosen, needs)


def _restricted(plan: Plan) -> None:
    e = plan.experiment
    for run in e.control_runs():
        for control, repeat in trained(e.controls):
            chosen = plan.named("old_circuit") if control in (OLD, RANDOM_SET) else ()
            plan.add(
                "controls",
                f"train {control_label(control, repeat)} {run.name}",
                (curve(run.name, control, repeat),),
                [recipe_settings(plan, run.recipe), e.control_prompts],
                (
                    *plan.named("base"),
                    *plan.prompts(FINETUNE, "train"),
                    *plan.prompts(e.tasks.new, "test"),
                    *chosen,
                ),
                recipe=run.recipe,
                seed=run.seed,
                control=control,
                repeat=repeat,
            )


def _few_shot(plan: Plan) -> None:
    e, c = plan.experiment, plan.experiment.controls
    if c.few_shot:
        settings = [c.few_shot, e.control_prompts, c.seed, e.measure.seed]
        needs = (*plan.named("base"), *plan.prompts(e.tasks.new, "test"))
        plan.add("controls", "few-shot", (FEW_SHOT_PATH,), settings, needs)


def _old_circuit_cost(job: Job, size: Size) -> Cost:
    return Cost(size.experiment.compare.carrier_prompts * size.patch_all / 2, models=1)


def _restricted_cost(job: Job, size: Size) -> Cost:
    e = size.experiment
    evaluated = len(e.finetune.checkpoint_steps()) * e.control_prompts
    return Cost(size.training + evaluated * (size.forward + size.unembed), models=5)


def _few_shot_cost(job: Job, size: Size) -> Cost:
    e = size.experiment
    examples = sum(count + 1 for count in e.controls.few_shot)
    return Cost(e.control_prompts * (examples * size.forward + size.unembed), models=1)


_HOME = "circuitlapse.pipeline.measure"
OLD_CIRCUIT = Measurement(
    "old_circuit", _old_circuit, f"{_HOME}.controls:choose", _old_circuit_cost
)
CONTROL = Measurement("control", _restricted, f"{_HOME}.controls:control", _restricted_cost)
FEW_SHOT = Measurement("few_shot", _few_shot, f"{_HOME}.few_shot:ask", _few_shot_cost)

"""The job that measures what carries the new ability at the last checkpoint of a fine-tune."""

from circuitlapse.carriers.measure_carriers import CarrierPrompts, carriers
from circuitlapse.carriers.old_task_heads import Variants
from circuitlapse.config.experiment import Experiment
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.user_checkpoints import load_several
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task


def measure_carriers(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Write the measures of a fine-tune under the first counterfactual type."""
    name, family = run_of_job(job).name, experiment.measure.counterfactuals[0]
    n, (old, new) = experiment.compare.carrier_prompts, (experiment.tasks.old, experiment.tasks.new)
    with store.write(job.outputs[0], job.key) as path:
        models = load_several(
            store, experiment, {"base": (name, 0), "tuned": (name, experiment.steps()[-1])}
        )

        def variants(task: str, split: str) -> Variants:
            prompts = Prompts(store, task, models["base"].tokenizer)
            return {each: prompts.pairs(split, n, each) for each in get_task(task).families[family]}

        found = carriers(
            models["base"],
            models["tuned"],
            CarrierPrompts(
                old_validation=variants(old, "validation"),
                new_validation=variants(new, "validation"),
                old_test=variants(old, "test"),
                new_test=variants(new, "test"),
            ),
            seed=experiment.compare.seed,
            advance=advance,
        )
        path.write_text(found.to_json(), encoding="utf-8")

"""The job that puts weights of the tuned model back, and into the base alone, part by part."""

from pydantic import TypeAdapter

from circuitlapse.config.experiment import Experiment
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.pipeline.inputs.user_checkpoints import load_several
from circuitlapse.pipeline.job import Advance, Job, run_of_job
from circuitlapse.records import layout
from circuitlapse.records.carriers import Carriers
from circuitlapse.records.store import Store
from circuitlapse.tasks.registry import get_task
from circuitlapse.two_models.exchanged_weights import WeightEffect, weight_effects


def measure_weights(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Write the effects of each group and layer, with the heads of the job ``carriers``."""
    name, new = run_of_job(job).name, experiment.tasks.new
    with store.write(job.outputs[0], job.key) as path:
        models = load_several(
            store, experiment, {"base": (name, 0), "tuned": (name, experiment.steps()[-1])}
        )
        chosen = Carriers.of_json(store.read(layout.carriers(name)).decode())
        pairs = Prompts(store, new, models["base"].tokenizer).pairs(
            "test", experiment.compare.carrier_prompts, get_task(new).counterfactuals[0]
        )
        found = weight_effects(
            models["base"],
            models["tuned"],
            pairs,
            old_heads=chosen.old.heads,
            new_heads=chosen.new.heads,
            advance=advance,
        )
        path.write_bytes(TypeAdapter(list[WeightEffect]).dump_json(found))

"""Jobs made of all fine-tunes that finished; none needs torch."""

from circuitlapse.analyses.analysis import RunData
from circuitlapse.analyses.decide import decide
from circuitlapse.analyses.registry import BY_NAME
from circuitlapse.config.experiment import Experiment
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.pipeline.run.run import provenance_of
from circuitlapse.records.store import Store


def table(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Make one table."""
    analysis = BY_NAME[job.params["table"]]
    with store.write(job.outputs[0], job.key) as path:
        analysis.table(analysis.rows(RunData(store, experiment))).write_parquet(path)


def verdict(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Judge one recipe."""
    with store.write(job.outputs[0], job.key) as path:
        found = decide(RunData(store, experiment), job.params["recipe"])
        path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


def provenance(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Say where the numbers come from."""
    with store.write(job.outputs[0], job.key) as path:
        found = provenance_of(store, experiment)
        path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")

"""The job that asks the base with solved examples in the prompt (k-shot prompting)."""

from dataclasses import asdict
from typing import Any

from circuitlapse.analyses.fine_tunes import _POOL
from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.quiet import quiet
from circuitlapse.pipeline.inputs.user_checkpoints import base_model
from circuitlapse.pipeline.job import Advance, Job
from circuitlapse.reading.k_shot import FewShot, few_shot
from circuitlapse.records import layout
from circuitlapse.records.items import read_items
from circuitlapse.records.store import Store, write_json
from circuitlapse.stats.intervals import Estimate
from circuitlapse.tasks.few_shot import separator_for
from circuitlapse.tasks.registry import get_task


def ask(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Ask the base with k solved examples in the prompt."""
    base = base_model(store, experiment)
    controls, task = experiment.controls, get_task(experiment.tasks.new)
    items = read_items(store.read(layout.prompts(experiment.tasks.new, "test")))[
        : experiment.control_prompts
    ]
    pool = min(_POOL, task.n_items("train") or _POOL)
    examples = task.items("train", pool, experiment.measure.seed, base.tokenizer)
    rows: list[FewShot] = []
    for count in controls.few_shot:
        try:
            with quiet():  # a tokenizer warns of what is too long, and a row says so
                rows += few_shot(
                    base,
                    items,
                    examples,
                    [count],
                    seed=controls.seed,
                    separator=separator_for(base.tokenizer),
                )
        except CircuitlapseError as error:  # too few examples of someone's own task
            rows.append(FewShot(count, len(items), None, None, str(error)))
    _keep(job, store, [asdict(row) for row in rows])


def _keep(job: Job, store: Store, rows: list[dict[str, Any]]) -> None:
    plain = [
        {k: v.model_dump() if isinstance(v, Estimate) else v for k, v in row.items()}
        for row in rows
    ]
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, plain)

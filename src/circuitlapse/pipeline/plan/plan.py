"""All kinds of jobs, and an experiment as a list of them.

To add a measurement, write its code in ``pipeline.measure`` and its entry in this room, and list
the entry here.
"""

from collections.abc import Mapping
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.plan.bits_jobs import BITS
from circuitlapse.pipeline.plan.checkpoint_jobs import MEASURE
from circuitlapse.pipeline.plan.control_jobs import CONTROL, FEW_SHOT, OLD_CIRCUIT
from circuitlapse.pipeline.plan.input_jobs import (
    BASE,
    CHECKPOINT,
    FINETUNE,
    PLACEBO,
    PROMPTS,
    SEPARATION,
)
from circuitlapse.pipeline.plan.measurement import Measurement, Plan
from circuitlapse.pipeline.plan.summary_jobs import PROVENANCE, TABLE, VERDICT
from circuitlapse.pipeline.plan.two_model_jobs import CARRIERS, WEIGHTS

# Jobs begin in this order once what they need is there. What takes long comes first.
MEASUREMENTS: tuple[Measurement, ...] = (
    CHECKPOINT,
    BASE,
    PROMPTS,
    SEPARATION,
    OLD_CIRCUIT,
    FINETUNE,
    PLACEBO,
    BITS,
    CARRIERS,
    WEIGHTS,
    MEASURE,
    CONTROL,
    FEW_SHOT,
    TABLE,
    VERDICT,
    PROVENANCE,
)
KINDS: Mapping[str, Measurement] = {each.kind: each for each in MEASUREMENTS}


def plan_jobs(
    experiment: Experiment,
    base_identity: Mapping[str, Any],
    checkpoints: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Job]:
    """List an experiment's jobs, each after those that it needs.

    Args:
        experiment: What to do.
        base_identity: What the base model is, down to the hash of its recipe or weights.
        checkpoints: What each of the user's checkpoints is, by step, if nothing is trained.
    """
    plan = Plan(experiment, base_identity, checkpoints or {})
    plan.fill(MEASUREMENTS)
    return list(plan.jobs.values())


def fine_tune_of(job: Job) -> str | None:
    """Name the fine-tune, or placebo, that fails with a job; None if the whole run does."""
    return job.params["training_run"] if KINDS[job.kind].of_fine_tune else None

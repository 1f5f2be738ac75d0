"""An experiment small enough for tests: every job of a real one, on a tiny model."""

from pathlib import Path
from typing import Any

import circuitlapse as cl
from circuitlapse.pipeline.job import Job


def small_experiment(base: Path, **finetune: Any) -> cl.Experiment:
    """Return an experiment on the model in ``base`` with three checkpoints."""
    return cl.Experiment.model_validate(
        {
            "base": {"path": str(base)},
            "finetune": {"steps": 4, "save_every": 2, "batch_size": 8, **finetune},
            "measure": {"prompts": 24, "circuit_prompts": 12, "circuit_sizes": [0.02, 0.2, 1.0]},
            "compare": {
                "bits": False,
                "carrier_prompts": 12,
                "bootstrap": 40,
                "permutations": 40,
            },
            "compute": {"workers": 1, "device": "cpu"},
        }
    )


def needed(jobs: list[Job], name: str) -> list[Job]:
    """Return a job after all that it needs, directly or not."""
    wanted = {name}
    for job in reversed(jobs):
        wanted |= {*job.needs} if job.name in wanted else set()
    return [job for job in jobs if job.name in wanted]

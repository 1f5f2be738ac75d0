"""Run an experiment in a directory: plan it, do what is missing, leave the rest alone.

Where a run's numbers come from: versions, hashes, the machine, and the time each part took.
"""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import circuitlapse
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.toml import read_experiment, to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.job import Job, Listener, Progress
from circuitlapse.pipeline.plan.plan import plan_jobs
from circuitlapse.pipeline.run.execute import execute, unfinished, work
from circuitlapse.records.documents import Provenance
from circuitlapse.records.store import Store, key_of, replacing


def run_in(experiment: Experiment, out: Path, listen: Listener) -> bool:
    """Run an experiment in the directory ``out``, going on where an earlier run stopped.

    Returns:
        Whether there was anything to do.

    Raises:
        CircuitlapseError: If ``out`` holds another experiment's run or something else, another
            process is running in it, or a job meets a mistake in its input.
    """
    experiment = looked_up(experiment)
    _check_directory(experiment, out)
    jobs = jobs_of(experiment)  # before anything is written: a mistake must leave no trace
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    with store.locked():
        if experiment.checkpoints:
            from circuitlapse.pipeline.inputs.user_checkpoints import check_unchanged

            check_unchanged(jobs, store)
        store.sweep()
        if not (out / "experiment.toml").exists():  # its time is when the run was started
            with replacing(out / "experiment.toml") as draft:
                draft.write_text(to_toml(experiment), encoding="utf-8")
        todo = unfinished(jobs, store, listen)
        if not todo:
            listen(Progress("planned", done=len(jobs), total=len(jobs)))
            return False
        from circuitlapse.pipeline.inputs.user_checkpoints import close_loader

        for job in jobs:
            for note in job.params.get("identity", {}).get("notes", ()):
                listen(Progress("note", job.name, text=note))
        try:
            execute(jobs, todo, store, experiment, work, listen)
        finally:
            close_loader()
    return True


def looked_up(experiment: Experiment) -> Experiment:
    """Return the experiment with every checkpoint of the user's found and given its step.

    Raises:
        CircuitlapseError: Naming the one that is not there, has no step or another's.
    """
    if not experiment.checkpoints:
        return experiment
    from circuitlapse.pipeline.inputs.user_checkpoints import look_up

    return look_up(experiment)


def jobs_of(experiment: Experiment) -> list[Job]:
    """Plan an experiment, after checking what can be checked without doing anything."""
    from circuitlapse.pipeline.inputs.base import (
        base_identity,
        check_parts,
        check_tasks,
        check_training,
    )

    check_tasks(experiment)
    if experiment.checkpoints:
        from circuitlapse.pipeline.inputs.user_checkpoints import base_of, examined

        found = examined(experiment)
        return plan_jobs(experiment, base_of(experiment.base, found[0]), found)
    check_training(experiment)
    identity = base_identity(experiment.base)
    check_parts(experiment)
    return plan_jobs(experiment, identity)


def _check_directory(experiment: Experiment, out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise CircuitlapseError(f"{out} is not a directory", fix="Name a new one with --out")
    held = out / "experiment.toml"
    if not held.exists():
        if any(not path.name.startswith((".lock", ".draft-")) for path in out.iterdir()):
            raise CircuitlapseError(
                f"{out} is not empty and holds no run", fix="Name a new directory with --out"
            )
        return
    before = _keys(read_experiment(held))
    after = _keys(experiment)
    if before != after:
        changed = sorted(key for key in after if before[key] != after[key])
        raise CircuitlapseError(
            f"{out} holds the run of another experiment: {', '.join(changed)} differ(s)",
            fix="Name another directory with --out; nothing was touched",
        )


def _keys(experiment: Experiment) -> dict[str, object]:
    """Everything that changes a number, by section and key."""
    sections = experiment.model_dump(exclude={"compute", "checkpoints"})
    keys = {
        f"{name}.{key}": value for name, held in sections.items() for key, value in held.items()
    }
    return {**keys, "checkpoints": experiment.checkpoints}


_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "trl",
    "accelerate",
    "peft",
    "numpy",
    "scipy",
    "polars",
    "safetensors",
)


def provenance_of(store: Store, experiment: Experiment) -> Provenance:
    """Gather a run's provenance; times are those of the artifacts as they were made."""
    base = json.loads(store.read("base.json"))
    base.pop("validation", None)
    started = (store.root / "experiment.toml").stat().st_mtime
    return Provenance(
        circuitlapse=circuitlapse.__version__,
        started=datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        command="circuitlapse run experiment.toml",
        platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
        config_sha256=key_of(experiment.model_dump(mode="json", exclude={"compute"})),
        base=base,
        seconds=store.seconds(),
    )

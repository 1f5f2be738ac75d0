"""Run an experiment in a directory: plan it, do what is missing, leave the rest alone."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from circuitlapse.config import Experiment, processes, read_experiment, to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.execute import execute, unfinished
from circuitlapse.pipeline.plan import Job, plan_jobs
from circuitlapse.pipeline.progress import Listener, Progress
from circuitlapse.records import Store, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator


def run_in(experiment: Experiment, out: Path, listen: Listener) -> bool:
    """Run an experiment in the directory ``out``, going on where an earlier run stopped.

    Returns:
        Whether there was anything to do.

    Raises:
        CircuitlapseError: If ``out`` holds another experiment's run or something else, another
            process is running in it, or a job meets a mistake in its input.
    """
    _check_directory(experiment, out)
    jobs = jobs_of(experiment)  # before anything is written: a mistake must leave no trace
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        store = Store(out)
        store.sweep()
        if not (out / "experiment.toml").exists():  # its time is when the run was started
            with replacing(out / "experiment.toml") as draft:
                draft.write_text(to_toml(experiment), encoding="utf-8")
        todo = unfinished(jobs, store, listen)
        if not todo and processes() == 1:
            listen(Progress("planned", done=len(jobs), total=len(jobs)))
            return False
        from circuitlapse.pipeline.work import work

        if processes() > 1:
            from circuitlapse.pipeline.together import lead, leave

            execute(jobs, lead(todo, experiment), store, experiment, work, listen)
            leave()
        else:
            execute(jobs, todo, store, experiment, work, listen)
    return True


def join_in(experiment: Experiment, out: Path) -> None:
    """Take part in the trainings of a run that another process does.

    Raises:
        CircuitlapseError: As the run's own process does.
    """
    from circuitlapse.pipeline.together import join

    join(jobs_of(experiment), out, experiment)


def jobs_of(experiment: Experiment) -> list[Job]:
    """Plan an experiment, after checking what can be checked without doing anything."""
    from circuitlapse.pipeline.base import base_identity, check_tasks, check_training

    check_tasks(experiment)
    check_training(experiment)
    return plan_jobs(experiment, base_identity(experiment.base))


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
    before = read_experiment(held).model_dump(exclude={"compute"})
    after = experiment.model_dump(exclude={"compute"})
    if before != after:
        changed = sorted(
            f"{section}.{key}"
            for section in after
            for key in after[section]
            if before[section][key] != after[section][key]
        )
        raise CircuitlapseError(
            f"{out} holds the run of another experiment: {', '.join(changed)} differ(s)",
            fix="Name another directory with --out; nothing was touched",
        )


@contextmanager
def _locked(out: Path) -> "Iterator[None]":
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CircuitlapseError(
            f"another process is running in {out}", fix="Wait for it, or name another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()

"""Carry out jobs in order of their needs: in this process, or in parallel in several.

Worker processes come from loky, which needs no ``if __name__ == "__main__"`` in the caller's
script. Each job takes one thread, so results do not depend on the number of workers; pretraining
always takes two.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any

from loky import ProcessPoolExecutor, cpu_count
from loky.backend import get_context
from loky.process_executor import TerminatedWorkerError

from circuitlapse.config.experiment import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.job import Advance, Job, Listener, Progress, Work
from circuitlapse.pipeline.plan.plan import KINDS, fine_tune_of
from circuitlapse.records.store import Store, key_of

_POLL_SECONDS = 0.2
_MOST_WORKERS = 8
_WHY = {
    "damaged": "was changed after it was written (its hash differs)",
    "outdated": "was made from other things than this experiment's",
}


def work(job: Job, store: Store, experiment: Experiment, advance: Advance) -> None:
    """Do one job and leave its artifacts in the store."""
    KINDS[job.kind].work()(job, store, experiment, advance)


class FailedRunsError(CircuitlapseError):
    """Some fine-tunes failed; everything else is done."""


class Failures:
    """What failed: a fine-tune takes along the jobs about it, and no more.

    Summaries are made of the others, under another key, so that they are made again later.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Begin without any loss."""
        self.experiment = experiment
        self.lost: dict[str, str] = {}  # the fine-tune and why, the first reason only
        self._gone: set[str] = set()

    def take(self, job: Job, error: CircuitlapseError) -> None:
        """Give a job up.

        Raises:
            CircuitlapseError: If it is about no fine-tune, or nothing is left without it.
        """
        name = fine_tune_of(job)
        if name is None:
            raise error
        self._gone.add(job.name)
        self.lost.setdefault(name, f"{job.name}: {error}")
        self.experiment = self.experiment.without([name])
        if not self.experiment.training_runs():
            self.end()

    def spared(self, job: Job) -> Job | None:
        """The job as it can be done now; None where it cannot be done without what was lost."""
        if not self.lost:
            return job
        if KINDS[job.kind].summary:
            recipe = job.params.get("recipe")
            if job.kind == "verdict" and all(
                a.recipe != recipe for a in self.experiment.training_runs()
            ):
                return None
            return replace(job, key=key_of(job.key, sorted(self.lost)))
        if not self._gone.intersection(job.needs):
            return job
        self._gone.add(job.name)
        name = fine_tune_of(job)
        if name is not None:
            self.lost.setdefault(name, f"{job.name}: it needs what was lost")
            self.experiment = self.experiment.without([name])
        return None

    def end(self) -> None:
        """Say what was lost, if anything."""
        if self.lost:
            listed = "\n".join(f"  {why}" for why in self.lost.values())
            done = (
                "The others are finished" if self.experiment.training_runs() else "Nothing is left"
            )
            raise FailedRunsError(
                f"{len(self.lost)} fine-tune(s) failed:\n{listed}\n",
                fix=f"{done}. Run the same command again to retry the failed ones",
            )


def unfinished(jobs: Sequence[Job], store: Store, listen: Listener) -> list[Job]:
    """Return the jobs whose artifacts are not all there and whole, and name the damaged ones."""
    todo: dict[str, Job] = {}

    def look(job: Job, whole: bool) -> None:
        states = {output: store.state(output, job.key, whole=whole) for output in job.outputs}
        for output, state in states.items():
            if state in _WHY:
                listen(Progress("note", job.name, text=f"{output} {_WHY[state]}: rebuilding it"))
        if any(state != "ready" for state in states.values()):
            todo[job.name] = job

    for job in jobs:
        look(job, whole=False)
    # What will be read must be whole to the last byte. Needs come before those who need them.
    for job in reversed(jobs):
        needed = any(job.name in each.needs for each in todo.values())
        if needed and job.name not in todo:
            look(job, whole=True)
    return [job for job in jobs if job.name in todo]


def execute(
    jobs: Sequence[Job],
    todo: Sequence[Job],
    store: Store,
    experiment: Experiment,
    work: Work,
    listen: Listener,
) -> None:
    """Do the jobs in ``todo``, each once those it needs are done.

    A fine-tune that comes to nothing does not keep the others from being finished.

    Raises:
        LostError: At the end, naming every fine-tune that failed.
        CircuitlapseError: Whatever a job raised that all others need; finished work stays.
    """
    workers = experiment.compute.workers or min(cpu_count(), _MOST_WORKERS)
    total = len(jobs)
    listen(Progress("planned", done=total - len(todo), total=total))
    if min(workers, len(todo)) <= 1:
        import torch

        threads, losses = torch.get_num_threads(), Failures(experiment)
        torch.set_num_threads(1)
        try:
            for index, planned in enumerate(todo):
                job = losses.spared(planned)
                if job is None:
                    continue
                listen(Progress("started", job.name))
                try:
                    work(job, store, losses.experiment, _advance(listen, job.name))
                except CircuitlapseError as error:
                    losses.take(job, error)
                finally:
                    give_back()
                listen(Progress("finished", job.name, total - len(todo) + index + 1, total))
        finally:
            torch.set_num_threads(threads)
        losses.end()
        return
    _in_processes(list(todo), total, store, experiment, work, listen, workers)


def _advance(listen: Listener, job: str) -> Advance:
    def advance(done: int, of: int, note: str = "") -> None:
        listen(Progress("advanced", job, done, of))
        if note:
            listen(Progress("note", job, text=f"{job}: {note}"))

    return advance


def _in_processes(
    waiting: list[Job],
    total: int,
    store: Store,
    experiment: Experiment,
    work: Work,
    listen: Listener,
    workers: int,
) -> None:
    events = get_context("loky").Queue()
    pool = worker_pool(workers, events)
    open_names = {job.name for job in waiting}
    running: dict[Future[None], Job] = {}
    losses = Failures(experiment)
    try:
        while waiting or running:
            for planned in [job for job in waiting if not open_names.intersection(job.needs)]:
                if len(running) == workers:
                    break
                waiting.remove(planned)
                job = losses.spared(planned)
                if job is None:
                    open_names.discard(planned.name)
                    continue
                listen(Progress("started", job.name))
                future = pool.submit(_in_worker, work, job, store.root, losses.experiment)
                running[future] = job
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _drain(events, listen)
            for future in done:
                job = running.pop(future)
                try:
                    future.result()
                except CircuitlapseError as error:
                    losses.take(job, error)
                open_names.discard(job.name)
                listen(Progress("finished", job.name, total - len(open_names), total))
    except TerminatedWorkerError as error:
        raise worker_killed() from error
    finally:
        pool.shutdown(wait=True, kill_workers=bool(running))
    losses.end()


def worker_killed() -> CircuitlapseError:
    """What to say where loky raises its TerminatedWorkerError."""
    return CircuitlapseError(
        "a worker process was killed, most often because memory ran out",
        fix="Start it again with fewer workers (--workers 1): it is resumed",
    )


def worker_pool(workers: int, events: Any = None) -> ProcessPoolExecutor:
    """Processes that compute on one thread each and end when their parent does.

    Args:
        workers: How many.
        events: A queue that jobs report their steps to.
    """
    return ProcessPoolExecutor(
        workers,
        context=get_context("loky"),
        initializer=_start_worker,
        initargs=(events,),
        # A checkpoint that is kept for the next job is no leak to restart a worker for.
        env={"OMP_NUM_THREADS": "1", "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"},
    )


def _drain(events: Any, listen: Listener) -> None:
    while True:
        try:
            job, *event = events.get_nowait()
            _advance(listen, job)(*event)
        except Empty:
            return


_events: Any = None


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with(parent: int) -> None:
    """End this worker once its parent is gone: a killed run must not go on writing."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _in_worker(work: Work, job: Job, root: Path, experiment: Experiment) -> None:
    last = -1

    def advance(done: int, of: int, note: str = "") -> None:
        nonlocal last
        # A queue is slow: a hundred events a job are enough.
        if note or (of and done * 100 // of != last):
            last = done * 100 // of if of else last
            _events.put((job.name, done, of, note))

    try:
        work(job, Store(root), experiment, advance)
    finally:
        give_back()


def give_back() -> None:
    """Return what was freed to the system; the C library would keep it: gigabytes after a job."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc's alone
            trim(0)

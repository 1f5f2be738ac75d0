"""Carry out jobs in order of their needs: in this process, or in several side by side.

Worker processes come from loky, which needs no ``if __name__ == "__main__"`` in the caller's
script. Each uses one thread, so results do not depend on how many workers there are.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from queue import Empty
from typing import Any

from loky import ProcessPoolExecutor
from loky.backend import get_context
from loky.process_executor import TerminatedWorkerError

from circuitlapse.config import Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.progress import Listener, Progress
from circuitlapse.records import Store

_POLL_SECONDS = 0.2
_MOST_WORKERS = 8

Work = Callable[[Job, Store, Experiment, Callable[[int, int], None]], None]


def unfinished(jobs: Sequence[Job], store: Store, listen: Listener) -> list[Job]:
    """Return the jobs whose artifacts are not all there and whole, and name the damaged ones."""
    todo = []
    for job in jobs:
        states = {output: store.state(output, job.key) for output in job.outputs}
        for output, state in states.items():
            if state == "damaged":
                text = (
                    f"{output} was changed after it was written (its hash differs): rebuilding it"
                )
                listen(Progress("note", job.name, text=text))
        if any(state != "ready" for state in states.values()):
            todo.append(job)
    return todo


def execute(
    jobs: Sequence[Job],
    todo: Sequence[Job],
    store: Store,
    experiment: Experiment,
    work: Work,
    listen: Listener,
) -> None:
    """Do the jobs in ``todo``, each once those it needs are done.

    Raises:
        CircuitlapseError: Whatever a job raised; the others' finished work stays.
    """
    workers = experiment.compute.workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    total = len(jobs)
    listen(Progress("planned", done=total - len(todo), total=total))
    if min(workers, len(todo)) <= 1:
        for index, job in enumerate(todo):
            listen(Progress("started", job.name))
            work(job, store, experiment, _advance(listen, job.name))
            listen(Progress("finished", job.name, total - len(todo) + index + 1, total))
        return
    _in_processes(list(todo), total, store, experiment, work, listen, workers)


def _advance(listen: Listener, job: str) -> Callable[[int, int], None]:
    return lambda done, of: listen(Progress("advanced", job, done, of))


def _in_processes(
    waiting: list[Job],
    total: int,
    store: Store,
    experiment: Experiment,
    work: Work,
    listen: Listener,
    workers: int,
) -> None:
    context: Any = get_context("loky")
    events = context.Queue()
    pool = ProcessPoolExecutor(
        workers, context=context, initializer=_start_worker, initargs=(events,),
        env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    open_names = {job.name for job in waiting}
    running: dict[Future[None], Job] = {}
    try:
        while waiting or running:
            for job in [job for job in waiting if not open_names.intersection(job.needs)]:
                if len(running) == workers:
                    break
                waiting.remove(job)
                listen(Progress("started", job.name))
                running[pool.submit(_in_worker, work, job, store.root, experiment)] = job
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _drain(events, listen)
            for future in done:
                job = running.pop(future)
                future.result()
                open_names.discard(job.name)
                listen(Progress("finished", job.name, total - len(open_names), total))
    except TerminatedWorkerError as error:
        raise CircuitlapseError(
            "a worker process was killed, most often because memory ran out",
            fix="Start the run again with fewer workers: it goes on where it was",
        ) from error
    finally:
        pool.shutdown(wait=True, kill_workers=bool(running))


def _drain(events: Any, listen: Listener) -> None:
    while True:
        try:
            listen(Progress("advanced", *events.get_nowait()))
        except Empty:
            return


_events: Any = None


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    import torch

    torch.set_num_threads(1)


def _in_worker(work: Work, job: Job, root: Path, experiment: Experiment) -> None:
    last = -1

    def advance(done: int, of: int) -> None:
        nonlocal last
        if of and done * 100 // of != last:  # a queue is slow: a hundred events a job are enough
            last = done * 100 // of
            _events.put((job.name, done, of))

    work(job, Store(root), experiment, advance)

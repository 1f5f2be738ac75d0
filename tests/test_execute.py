"""The executor, with real worker processes and jobs that write real artifacts."""

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import psutil
import pytest

from circuitlapse.config.base import Base
from circuitlapse.config.experiment import Compute, Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.job import Job, Progress
from circuitlapse.pipeline.run.execute import FailedRunsError, execute, unfinished
from circuitlapse.records.store import Store

# The workers cannot import a test file: send this one's functions along.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _job(name: str, *needs: str) -> Job:
    return Job(name, "table", {}, (f"{name}.txt",), needs, f"key of {name}")


def _experiment(workers: int) -> Experiment:
    return Experiment(
        base=Base.model_validate({"path": "nowhere"}),
        compute=Compute(workers=workers, device="cpu"),
    )


def join_needs(job, store, experiment, advance):
    """Write a file with the job's name and its needs' contents."""
    texts = [store.read(f"{need}.txt").decode() for need in job.needs]
    advance(1, 2)
    with store.write(job.outputs[0], job.key) as path:
        path.write_text(f"{job.name}({','.join(texts)})")


def fail_at_b(job, store, experiment, advance):
    """Raise a user's error in job b."""
    if job.name == "b":
        raise CircuitlapseError("b cannot be done", fix="Try c")
    join_needs(job, store, experiment, advance)


def die_at_b(job, store, experiment, advance):
    """End the whole process in job b, as the system does when memory runs out."""
    if job.name == "b":
        os._exit(9)
    join_needs(job, store, experiment, advance)


JOBS = [_job("a"), _job("b", "a"), _job("c", "a"), _job("d", "b", "c")]


def _execute(root: Path, work, workers: int) -> list[Progress]:
    events: list[Progress] = []
    store = Store(root)
    todo = unfinished(JOBS, store, events.append)
    execute(JOBS, todo, store, _experiment(workers), work, events.append)
    return events


# Two workers are new processes that import torch: the quick tests start them for the order of jobs,
# failed fine-tunes and killed workers.
one_or_two = pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_done_after_those_they_need(tmp_path, workers):
    events = _execute(tmp_path, join_needs, workers)
    assert (tmp_path / "d.txt").read_text() == "d(b(a()),c(a()))"
    finished = [event.job for event in events if event.kind == "finished"]
    assert finished[0] == "a"
    assert finished[-1] == "d"
    assert [e.done for e in events if e.kind == "finished"] == [1, 2, 3, 4]
    # Steps within a job come through a queue; the last ones may stay unread when a run ends.
    assert "a" in {e.job for e in events if e.kind == "advanced"} <= {"a", "b", "c", "d"}


@one_or_two
def test_only_what_is_missing_is_done_again(tmp_path, workers):
    _execute(tmp_path, join_needs, workers)
    (tmp_path / "b.txt").unlink()
    events = _execute(tmp_path, join_needs, workers)
    assert [event.job for event in events if event.kind == "started"] == ["b"]
    assert not [e for e in _execute(tmp_path, join_needs, workers) if e.kind == "started"]


def test_a_changed_artifact_is_noted_and_made_again(tmp_path):
    _execute(tmp_path, join_needs, 1)
    (tmp_path / "c.txt").write_text("something else")
    events = _execute(tmp_path, join_needs, 1)
    notes = [event.text for event in events if event.kind == "note"]
    assert notes == ["c.txt was changed after it was written (its hash differs): rebuilding it"]
    assert (tmp_path / "c.txt").read_text() == "c(a())"


@one_or_two
def test_an_error_in_a_job_reaches_the_caller_and_finished_work_stays(tmp_path, workers):
    with pytest.raises(CircuitlapseError, match="b cannot be done. Try c."):
        _execute(tmp_path, fail_at_b, workers)
    assert (tmp_path / "a.txt").exists()
    assert not (tmp_path / "b.txt").exists()
    _execute(tmp_path, join_needs, workers)
    assert (tmp_path / "d.txt").read_text() == "d(b(a()),c(a()))"


def _run_job(kind, seed, *needs):
    params = {"training_run": f"seed-{seed}"}
    name = f"{kind}-{seed}"
    return Job(name, kind, params, (f"{name}.txt",), needs, f"key of {name}")


RUNS = [
    *(
        job
        for seed in (0, 1, 2)
        for job in (_run_job("finetune", seed), _run_job("measure", seed, f"finetune-{seed}"))
    ),
    _job("summary", "measure-0", "measure-1", "measure-2"),
]


def lose_some(job, store, experiment, advance):
    """Raise a user's error in the fine-tune with seed 1 and in measuring that with seed 2."""
    if job.name in ("finetune-1", "measure-2"):
        raise CircuitlapseError(f"{job.name} has gone wrong")
    with store.write(job.outputs[0], job.key) as path:
        path.write_text(",".join(training_run.name for training_run in experiment.training_runs()))


def lose_all(job, store, experiment, advance):
    """Raise a user's error in every fine-tune."""
    raise CircuitlapseError(f"{job.name} has gone wrong")


def _with_three_seeds(root, work, workers):
    store, events = Store(root), []
    finetune = Finetune.model_validate({"seeds": [0, 1, 2]})
    experiment = _experiment(workers).model_copy(update={"finetune": finetune})
    todo = unfinished(RUNS, store, events.append)
    execute(RUNS, todo, store, experiment, work, events.append)


@pytest.mark.parametrize("workers", [1, 2])
def test_fine_tunes_that_fail_are_named_at_the_end_and_keep_no_other_from_it(tmp_path, workers):
    with pytest.raises(FailedRunsError) as caught:
        _with_three_seeds(tmp_path, lose_some, workers)
    message = str(caught.value)
    assert message.startswith("2 fine-tune(s) failed:\n")
    assert "  finetune-1: finetune-1 has gone wrong." in message
    assert "  measure-2: measure-2 has gone wrong." in message
    assert message.endswith(
        "The others are finished. Run the same command again to retry the failed ones."
    )
    there = {path.name for path in tmp_path.glob("*.txt")}
    assert there == {"finetune-0.txt", "measure-0.txt", "finetune-2.txt", "summary.txt"}
    assert (tmp_path / "summary.txt").read_text() == "seed-0"
    # The summary of one alone does not pass for that of all.
    todo = unfinished(RUNS, Store(tmp_path), lambda event: None)
    assert [job.name for job in todo] == ["finetune-1", "measure-1", "measure-2", "summary"]


@one_or_two
def test_without_any_fine_tune_a_run_ends_at_once(tmp_path, workers):
    with pytest.raises(
        FailedRunsError, match=r"(?s)3 fine-tune.*Nothing is left\. Run the same command"
    ):
        _with_three_seeds(tmp_path, lose_all, workers)
    assert not (tmp_path / "summary.txt").exists()


@pytest.mark.filterwarnings("ignore:A worker stopped")
def test_a_killed_worker_is_explained(tmp_path):
    with pytest.raises(CircuitlapseError, match="most often because memory ran out"):
        _execute(tmp_path, die_at_b, 2)


def test_workers_end_with_a_killed_parent(tmp_path):
    """Otherwise they would go on writing into a run that was started again."""
    script = (
        "import os, time\nfrom loky import ProcessPoolExecutor\n"
        "from circuitlapse.pipeline.run.execute import _start_worker\n"
        "pool = ProcessPoolExecutor(1, initializer=_start_worker, initargs=(None,))\n"
        "print(pool.submit(os.getpid).result(), flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    worker.wait(timeout=20)

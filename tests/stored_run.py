"""A small finished run that is kept as data, so that a change of the code shows in its numbers.

``tests/data/stored_run.tar.xz`` holds its artifacts, with the weights of the base and of every
fine-tune; ``python tests/make_stored_run.py`` makes it. The experiment stands here, in the words of
the present code. :func:`rebuild` writes stored artifacts into a new run and does the jobs of the
others.

Everything that the test takes from inside the package is imported here.
"""

import hashlib
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import circuitlapse as cl
from circuitlapse.models.files.quiet import quiet
from circuitlapse.pipeline.job import Job
from circuitlapse.pipeline.run.execute import work
from circuitlapse.pipeline.run.run import jobs_of
from circuitlapse.records.store import Store
from small_run import needed

ARCHIVE = Path(__file__).parent / "data/stored_run.tar.xz"
MADE_WITH = "09f0dbc7af560a1a"
"""What ``arithmetic`` gave where the run was made, as the command prints it."""


def experiment(base: Path) -> cl.Experiment:
    """The stored run's experiment; its base is beside the run in the archive."""
    return cl.Experiment.model_validate(
        {
            "base": {"path": str(base)},
            "finetune": {
                "steps": 60,
                "save_at": [8, 24],
                "batch_size": 16,
                "learning_rate": 1e-2,
                "seeds": [0, 1],
            },
            "measure": {
                "prompts": 24,
                "circuit_prompts": 16,
                "circuit_sizes": [0.02, 0.1, 0.4, 1.0],
            },
            "compare": {
                "bits": False,
                "carrier_prompts": 24,
                "bootstrap": 60,
                "permutations": 60,
            },
            "controls": {
                "train_only": ["old_circuit", "mlps"],
                "random_sets": 1,
                "placebos": ["old_task"],
                "placebo_seeds": [0],
                "unrelated": "induction",
                "few_shot": [0, 1],
                "prompts": 16,
            },
            "compute": {"workers": 1, "device": "cpu"},
        }
    )


def arithmetic(base: Path) -> str:
    """Say how this processor and these libraries round, none of our code taking part.

    Others add up in another order: what is measured from the same weights then differs in the sixth
    decimal, and what is made from the same arrays in the sixteenth.
    """
    with torch.no_grad(), quiet():
        model = AutoModelForCausalLM.from_pretrained(base)
        logits = model(torch.arange(200).reshape(5, 40)).logits.numpy()
    table = np.random.default_rng(0).normal(size=(40, 50))
    parts = (logits, np.corrcoef(table), np.exp(table).sum(axis=0), table.mean(axis=1))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()[:16]


class Stored:
    """The stored run, unpacked.

    Attributes:
        run: Its directory.
        base: The base model.
        same: Whether this machine rounds as the one that made it.
    """

    def __init__(self, directory: Path) -> None:
        """Unpack into a directory."""
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(directory, filter="data")
        self.run, self.base = directory / "run", directory / "base"
        self.same = arithmetic(self.base) == MADE_WITH

    def files(self, *begin: str) -> dict[str, Path]:
        """Stored artifacts by name: those whose name begins like this."""
        paths = (path for path in sorted(self.run.rglob("*")) if path.is_file())
        names = {path.relative_to(self.run).as_posix(): path for path in paths}
        return {n: path for n, path in names.items() if n.startswith(begin)}


def read_arrays(path: Path) -> tuple[dict[str, Any], Any]:
    """The arrays of an artifact and its metadata; no array where it holds JSON."""
    if path.read_bytes()[:1] in b"[{":
        return {}, json.loads(path.read_text())
    with safe_open(path, "numpy") as file:
        about = json.loads((file.metadata() or {}).get("about", "null"))
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def read_table(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path.read_bytes())


def rebuild(
    stored: Stored,
    out: Path,
    placed: Iterable[str],
    wanted: Iterable[str],
    edit: Callable[[str, Path], None] | None = None,
) -> list[str]:
    """Place stored artifacts in a new run and do the jobs that make others.

    Each is done where nothing lies but what its job waits for, or else it would fail now and then
    in a run with several workers.

    Args:
        stored: Where they are from.
        out: The new run's directory.
        placed: How the names of the artifacts to place begin.
        wanted: Regular expressions for the names of artifacts to make; what they need is
            made too.
        edit: Called with the name of each placed file and its path, to change it.

    Returns:
        The names of the artifacts that were made.
    """
    given, store, todo = stored.files(*placed), Store(out), experiment(stored.base)
    jobs, ready = jobs_of(todo), set[str]()
    for job in jobs:
        for output in job.outputs:
            files = {n: p for n, p in given.items() if n == output or n.startswith(f"{output}/")}
            if not files:
                continue
            with store.write(output, job.key) as path:
                for name, file in files.items():
                    target = path / name[len(output) + 1 :] if name != output else path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
                    if edit is not None:
                        edit(name, target)
            ready.add(output)
    patterns, asked_for, made = [re.compile(each) for each in wanted], set[str](), list[str]()
    for job in reversed(jobs):
        asked = any(pattern.match(name) for pattern in patterns for name in job.outputs)
        if (asked or job.name in asked_for) and not ready.issuperset(job.outputs):
            asked_for |= {job.name, *job.needs}
    for job in jobs:
        if job.name in asked_for and not ready.issuperset(job.outputs):
            with _alone(job, jobs, out):
                work(job, store, todo, lambda done, of, note="": None)
            made += job.outputs
    return made


@contextmanager
def _alone(job: Job, jobs: list[Job], out: Path) -> Iterator[None]:
    """Hide what a job does not wait for: with several workers it may not be written yet."""
    kept = needed(jobs, job.name)
    others = (name for each in jobs if each not in kept for name in each.outputs)
    hidden = [out / name for name in others if (out / name).exists()]
    for path in hidden:
        path.rename(path.with_name(f"{path.name}.hidden"))
    try:
        yield
    finally:
        for path in hidden:
            path.with_name(f"{path.name}.hidden").rename(path)

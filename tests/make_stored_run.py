"""Make the stored run anew: ``python tests/make_stored_run.py``; it takes about a minute.

A random model is fine-tuned, and the held-out prompts are those on which it happens to do the old
task, and on which its fine-tunes happen to gain, so that every kind of evidence has something to
show. What the run holds is never right or wrong by itself: it is what the code of its day gave.
Make it again only when a difference is intended and cannot be named in ``test_stored_run.py``.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

import torch

import circuitlapse as cl
from circuitlapse.models.engine.behaviour import logit_differences
from circuitlapse.models.engine.model import Model
from circuitlapse.pipeline.run.execute import work
from circuitlapse.pipeline.run.run import jobs_of
from circuitlapse.records.items import Item, write_items
from circuitlapse.records.store import Store
from found_prompts import random_model, save
from small_run import needed
from stored_run import ARCHIVE, arithmetic, experiment

HELD_OUT = {"test": 32, "test_templates": 24, "validation": 24}


def do(out: Path, base: Path, wanted: str, items: dict[str, list[Item]]) -> None:
    """Do the jobs whose name begins as wanted, and what they need, with these held-out prompts."""
    store, todo = Store(out), experiment(base)
    jobs = jobs_of(todo)
    names = [job.name for job in jobs if job.name.startswith(wanted)]
    asked_for = {job.name for name in names for job in needed(jobs, name)}
    for job in jobs:
        if job.name in asked_for and store.state(job.outputs[0], job.key) != "ready":
            if job.outputs[0] in items:
                with store.write(job.outputs[0], job.key) as path:
                    write_items(items[job.outputs[0]], path)
            else:
                work(job, store, todo, lambda done, of, note="": None)


def fitting(base: Model, tuned: list[Model]) -> dict[str, list[Item]]:
    """Held-out prompts of both tasks, by the artifact that they become."""

    def margins(model: Model, items: list[Item], corruption: str) -> list[torch.Tensor]:
        return [*logit_differences(model, cl.tokenize(items, model.tokenizer, corruption))]

    found = {}
    for split, n in HELD_OUT.items():
        items = cl.get_task("ioi2").items(split, 64 * n)
        clean, corrupt = margins(base, items, "s_to_io")
        fits = (clean > 0.2) & (corrupt < clean - 1)
        found[f"tasks/ioi2.{split}.jsonl"] = [i for i, fit in zip(items, fits, strict=True) if fit]
        items = cl.get_task("ioi3").items(split, 64 * n)
        before = margins(base, items, "s1_to_io")[0]
        after = [margins(model, items, "s1_to_io")[0] for model in tuned]
        fits = torch.stack([(before < 0) & (each > 0.2) for each in after]).all(dim=0)
        found[f"tasks/ioi3.{split}.jsonl"] = [i for i, fit in zip(items, fits, strict=True) if fit]
        for task in ("ioi2", "ioi3"):
            name = f"tasks/{task}.{split}.jsonl"
            assert len(found[name]) >= n, (name, len(found[name]))
            found[name] = found[name][:n]
    return found


def main() -> None:
    """Make the run in a temporary directory and pack what the test reads."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        base = save(random_model(2), Path(directory) / "base")
        first, out = Path(directory) / "first", Path(directory) / "run"
        do(first, base, "fine-tune seed", {})
        last = experiment(base).steps()[-1]
        tuned = [
            cl.load_model(first / f"checkpoints/seed-{seed}/step-{last:05d}", device="cpu")
            for seed in experiment(base).finetune.seeds
        ]
        do(out, base, "verdict", fitting(cl.load_model(base, device="cpu"), tuned))
        shutil.rmtree(out / ".records")
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            for path in sorted(Path(directory).rglob("*")):
                name = path.relative_to(directory).as_posix()
                if path.is_file() and name.startswith(("base/", "run/")):
                    about = tarfile.TarInfo(name)
                    about.size = path.stat().st_size
                    with path.open("rb") as file:
                        archive.addfile(about, file)
        made_with = arithmetic(base)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size} bytes; MADE_WITH is {made_with}")  # noqa: T201


if __name__ == "__main__":
    main()

"""Run the whole demo on fresh pretraining seeds and print what each reached, failures included.

    .venv/bin/python benchmarks/demo_seeds.py --seeds 0 1 2 3 4 --out runs/benchmark

Every run starts from an empty cache, so that its time includes pretraining. Memory is the peak of
the resident sizes of all of a run's processes together, sampled every half second; pages that
processes share are counted in each of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import psutil

import circuitlapse as cl

# Issued with the table: what the demo promises for the tuned model and its base.
GOALS = {
    ("ioi2", "test", 0, "accuracy"): (0.98, 1.0),
    ("ioi3", "test", 0, "candidate_accuracy"): (0.25, 0.50),
    ("ioi3", "test", -1, "candidate_accuracy"): (0.95, 1.0),
    ("ioi3", "test_templates", -1, "candidate_accuracy"): (0.75, 1.0),
    ("ioi2", "test", -1, "accuracy"): (0.97, 1.0),
}


def watch(command: list[str], cache: str) -> tuple[float, float, int]:
    """Run a command; return its seconds, its processes' peak memory in GiB, and its status."""
    started, peak = time.monotonic(), 0
    environment = {**os.environ, "CIRCUITLAPSE_CACHE": cache}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for one in [root, *root.children(recursive=True)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(0.5)
    return time.monotonic() - started, peak / 2**30, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--organism", default="default", choices=["default", "natural"])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    arguments = parser.parse_args()
    print(
        "| seed | s | GiB | base old | base new | tuned new | tuned new, templates | tuned old "
        "| verdict | reached |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for seed in arguments.seeds:
        out = arguments.out / f"{arguments.organism}-{seed}"
        command = [
            sys.executable,
            "-m",
            "circuitlapse",
            "demo",
            "--organism",
            arguments.organism,
            "--seed",
            str(seed),
            "--out",
            str(out),
        ]
        with tempfile.TemporaryDirectory() as cache:
            seconds, gib, status = watch(command, cache)
        if status:
            print(f"| {seed} | {seconds:.0f} | {gib:.1f} | exit status {status} | | | | | | no |")
            continue
        run = cl.load_run(out)
        table = run.table("behaviour")
        cells, reached = [], True
        for (task, split, step, quantity), (low, high) in GOALS.items():
            at = run.experiment.steps()[step]
            row = table.filter(
                (pl.col("task") == task) & (pl.col("split") == split) & (pl.col("step") == at)
            )
            value = row[quantity][0]
            cells.append(f"{value:.3f}")
            reached &= low <= value <= high or arguments.organism == "natural"
        label = json.loads((out / "verdict.json").read_text())["label"]
        verdict = "yes" if reached else "no"
        print(f"| {seed} | {seconds:.0f} | {gib:.1f} | {' | '.join(cells)} | {label} | {verdict} |")


if __name__ == "__main__":
    main()

"""The engine's speed and memory on one core, beside Hugging Face's forward and TransformerLens.

    make bench

or, without the peer, some jobs only, and the figures kept:

    .venv/bin/python benchmarks/engine.py --no-peers --jobs eap eap-ig --json figures.json

GPT-2 124M with random weights, 32 prompts of 16 tokens, single precision. Every job runs in a
process of its own, one after the other, each alternating with a forward of Hugging Face on the same
prompts: machines are noisy, ratios less so. Left of the first token that differs between clean and
corrupt prompt the engine computes everything once, so the headline is the worst case, a difference
in the first token; a second column has it where indirect object identification usually has it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from jobs import JOBS, Job

_HERE = Path(__file__).parent
_GIB = 2**30
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [one.name for one in JOBS]
    parser.add_argument(
        "--jobs",
        nargs="+",
        choices=names,
        default=names,
        metavar="JOB",
        help=f"some of: {', '.join(names)}",
    )
    parser.add_argument(
        "--later", type=int, default=10, help="first differing position of the second column"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="compare 1 thread with so many; 0 leaves that out"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="repeat a job for about so long"
    )
    parser.add_argument("--least", type=int, default=3, help="but at least so often")
    parser.add_argument("--no-peers", action="store_true", help="leave TransformerLens out")
    parser.add_argument("--peer-python", default=".venv-peers/bin/python")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    repeat = ["--seconds", str(arguments.seconds), "--least", str(arguments.least)]
    figures: dict[str, dict[str, Figures]] = {}
    for line in _head(arguments.later, arguments.threads):
        print(line, flush=True)
    for one in JOBS:
        if one.name not in arguments.jobs:
            continue
        found = figures[one.name] = {}
        threads = ["--threads", str(arguments.threads)]
        found["worst"] = _run(sys.executable, "worker.py", one.name, *repeat, *threads)
        if not one.once:
            start = ["--start", str(arguments.later)]
            found["later"] = _run(sys.executable, "worker.py", one.name, *repeat, *start)
        if one.peer and not arguments.no_peers:
            found["peer"] = _run(arguments.peer_python, "transformerlens.py", one.peer)
        print(_line([one.title, *_cells(one, found)]), flush=True)
        if arguments.json:
            document = {"machine": _machine(figures), "jobs": figures}
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    print(_summary(_machine(figures)))


def _run(python: str, script: str, *arguments: str) -> Figures:
    """Run one measurement; what went wrong stands in ``error``."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [python, str(_HERE / script), *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def _machine(figures: dict[str, dict[str, Figures]]) -> Figures:
    runs = [run for found in figures.values() for run in found.values() if "error" not in run]
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line for line in information.read_text().splitlines() if "model name" in line]
        processor = named[0].split(":")[1].strip() if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gflops": sorted(run["gflops"] for run in runs),
        "reference_seconds": sorted(run["reference"] for run in runs),
    }


def _summary(machine: Figures) -> str:
    gflops = machine["gflops"]
    speed = f"{gflops[0]:.0f} to {gflops[-1]:.0f} GFLOP/s" if gflops else "not measured"
    return (
        f"\n{machine['processor']}, {machine['cores']} cores, one thread, "
        f"torch {machine['torch']}, transformers {machine['transformers']}; "
        f"single-precision matrix product {speed} on one core.\n"
        "x HF: in units of one forward of Hugging Face on the same prompts, timed in "
        "between. Share: of the matrix product's speed that the necessary operations reach. "
        "GiB: peak of the process, and above what it held before. Threads: how many times as fast "
        "as on one, and the matrix product in the same minute."
    )


def _head(later: int, threads: int) -> list[str]:
    names = [
        "job",
        "s",
        "x HF",
        "goal",
        "share",
        "GiB",
        "above",
        f"{threads} threads",
        f"x HF from {later}",
        "TransformerLens x HF",
        "its s",
        "its GiB",
    ]
    return [_line(names), _line(["---"] + ["---:"] * (len(names) - 1))]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(one: Job, found: dict[str, Figures]) -> list[str]:
    worst, later, peer = (found.get(key, {}) for key in ("worst", "later", "peer"))
    if "error" in worst:
        return [worst["error"], *[""] * 10]
    share = ""
    if worst["flops"]:
        share = f"{worst['flops'] / worst['capacity'] / 1e7:.0f} %"
    speedup = ""
    if worst["speedup"]:
        speedup = f"{worst['speedup']:.2f} x ({worst['product_speedup']:.2f})"
    peer_cells = ["", "", ""]
    if "error" in peer:
        peer_cells = [peer["error"], "", ""]
    elif peer:
        peer_cells = [
            f"{peer['ratio']:.2f}",
            f"{peer['seconds']:.1f}",
            f"{peer['peak_bytes'] / _GIB:.2f}",
        ]
    above = worst["peak_bytes"] - worst["base_bytes"]
    return [
        f"{worst['seconds']:.2f}",
        f"{worst['ratio']:.2f}",
        _goal(one),
        share,
        f"{worst['peak_bytes'] / _GIB:.2f}",
        f"{above / _GIB:.2f}",
        speedup,
        later.get("error") or (f"{later['ratio']:.2f}" if later else ""),
        *peer_cells,
    ]


def _goal(one: Job) -> str:
    if one.goal_seconds:
        return f"≤ {one.goal_seconds:g} s"
    if one.goal is None:
        return ""
    return f"≤ {one.goal:g}" + (f" ({one.limit:g})" if one.limit else "")


if __name__ == "__main__":
    main()

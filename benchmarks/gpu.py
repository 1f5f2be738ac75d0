"""The same jobs on a CUDA device, for GPT-2 small to xl, with the device's name and its memory.

    .venv/bin/python benchmarks/gpu.py --sizes gpt2 gpt2-xl --json gpu.json

No figure of it stands in the documents yet: it has not been run on a GPU. The first differing token
is the first of the prompt, the worst case.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from inputs import SIZES, Tokens, random_model, random_tokens
from jobs import JOBS, Setup

import circuitlapse as cl

_REPEATS = 5
_GIB = 2**30
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--dtype", choices=list(_DTYPES), default="float32")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "benchmarks/gpu.py needs a CUDA device, and torch sees none here; on a CPU run "
            "`make bench`",
            file=sys.stderr,
        )
        sys.exit(2)
    device = torch.cuda.get_device_name()
    print(
        f"{device}, {arguments.dtype}, {arguments.prompts} prompts of {arguments.length} tokens, "
        f"torch {torch.__version__}\n"
    )
    print("| model | job | s | x HF | peak GiB on the device | of it weights |")
    print("|---|---|---:|---:|---:|---:|")
    rows = []
    for size in arguments.sizes:
        shape = dataclasses.replace(SIZES[size], prompts=arguments.prompts, length=arguments.length)
        tokens = Tokens(*(part.to("cuda") for part in random_tokens(shape)))
        dtype = _DTYPES[arguments.dtype]
        model = cl.load_model(random_model(shape).to("cuda", dtype), device="cuda", dtype=dtype)
        setup = Setup(shape, model, tokens, cl.PromptPairs.from_tensors(*tokens))
        weights = torch.cuda.memory_allocated()
        reference, _ = _measure(lambda model=model, ids=tokens.clean: model.hf(ids))
        for job in JOBS:
            if job.shape != SIZES["gpt2"]:
                continue
            seconds, peak = _measure(job.prepare(setup))
            print(
                f"| {size} | {job.title} | {seconds:.3f} | {seconds / reference:.2f} | "
                f"{peak / _GIB:.2f} | {weights / _GIB:.2f} |",
                flush=True,
            )
            rows.append(
                {
                    "size": size,
                    "job": job.name,
                    "seconds": seconds,
                    "reference": reference,
                    "peak_bytes": peak,
                }
            )
        del model, setup
        torch.cuda.empty_cache()
    if arguments.json:
        figures = {"device": device, "dtype": arguments.dtype, "rows": rows}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


@torch.no_grad()
def _measure(work: Callable[[], object]) -> tuple[float, int]:
    """Median seconds after a warm-up, and the peak of the device's memory."""
    torch.cuda.reset_peak_memory_stats()
    work()
    peak = torch.cuda.max_memory_allocated()
    taken = []
    for _ in range(_REPEATS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken), peak


if __name__ == "__main__":
    main()

"""GPT-2's whole architecture through the whole pipeline: time, and memory over all processes.

Six checkpoints with random weights (the base, and five that move away from it), both tasks, 64
prompts, one counterfactual type (the first of the defaults), EAP-IG with five points at every
checkpoint, exact patching at base and last only, nothing trained. Random weights must end as
``undetermined``, with the reason.

    CIRCUITLAPSE_GPT2_TOKENIZER=path/to/gpt2 python benchmarks/pipeline_124m.py /tmp/124m

The tokenizer is GPT-2's own: a directory with its vocab.json and merges.txt.
"""

import argparse
import os
import resource
import sys
from pathlib import Path

import torch
from demo_seeds import watch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import circuitlapse as cl
from circuitlapse.models.files.quiet import quiet

LIMITS = {"minutes": 20.0, "GiB": 6.0}


def make_checkpoints(out: Path, tokenizer_path: str, steps: list[int]) -> None:
    """Save GPT-2 small with random weights, and again after small random changes."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    for step in steps:
        directory = out / (f"checkpoint-{step}" if step else "base")
        if (directory / "config.json").exists():
            continue
        if step:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.add_(torch.randn_like(weight), alpha=1e-3)
        with quiet():
            model.save_pretrained(directory)
            tokenizer.save_pretrained(directory)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="for checkpoints and run; 3 GB")
    parser.add_argument("--checkpoints", type=int, default=6, help="the base among them")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--counterfactual", default="subject", help="the family; or names")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    tokenizer = os.environ.get("CIRCUITLAPSE_GPT2_TOKENIZER")
    if not tokenizer:
        parser.error("set CIRCUITLAPSE_GPT2_TOKENIZER to a directory with GPT-2's tokenizer")
    steps = [8 * index for index in range(arguments.checkpoints)]
    made, out = arguments.directory / "checkpoints", arguments.directory / "run"
    make_checkpoints(made, tokenizer, steps)
    if out.exists():
        parser.error(f"{out} is there already: what it holds would not be measured again")
    command = [
        sys.executable,
        "-m",
        "circuitlapse",
        "run",
        "--checkpoints",
        f"{made}/checkpoint-*",
        "--base",
        f"{made}/base",
        "--old",
        "ioi2",
        "--new",
        "ioi3",
        "--prompts",
        str(arguments.prompts),
        "--counterfactual",
        arguments.counterfactual,
        "--patch-at",
        "ends",
        "--workers",
        str(arguments.workers),
        "--device",
        "cpu",
        "--out",
        str(out),
    ]
    seconds, peak, status = watch(command, os.environ.get("CIRCUITLAPSE_CACHE", ""))
    minutes = seconds / 60
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status:
        return status
    verdict = cl.load_run(out).verdict
    failed = [check.name for check in verdict.preconditions if not check.holds]
    print(
        f"\n{minutes:.1f} minutes (at most {LIMITS['minutes']:.0f}), {peak:.2f} GiB over all "
        f"processes (at most {LIMITS['GiB']:.0f}), {arguments.workers} workers that took "
        f"{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of a core; load of the machine "
        f"{os.getloadavg()[0]:.1f}"
    )
    print(f"verdict {verdict.label}; failing: {'; '.join(failed)}")
    right = verdict.label == "undetermined" and "The base does the old task" in failed
    return 0 if right and minutes <= LIMITS["minutes"] and peak <= LIMITS["GiB"] else 1


if __name__ == "__main__":
    sys.exit(main())

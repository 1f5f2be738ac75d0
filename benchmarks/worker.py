"""Measure one job in a process of its own, so that the peak of memory is its own; print JSON.

    .venv/bin/python benchmarks/worker.py eap --start 0 --threads 2

Imported by nothing; ``engine.py`` starts it.
"""

import argparse
import dataclasses
import json

import torch
from clock import measure
from inputs import random_model, random_tokens
from jobs import Setup, job

import circuitlapse as cl


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="compare 1 thread with so many")
    parser.add_argument("--seconds", type=float, default=10.0, help="repeat for about so long")
    parser.add_argument("--least", type=int, default=3, help="repeat at least so often")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen = job(arguments.job)
    shape = dataclasses.replace(chosen.shape, start=arguments.start)
    tokens = random_tokens(shape)
    model = cl.load_model(random_model(shape), device="cpu")
    setup = Setup(shape, model, tokens, cl.PromptPairs.from_tensors(*tokens))
    work = chosen.prepare(setup)
    timing = measure(
        work,
        lambda: model.hf(tokens.clean),
        seconds=arguments.seconds,
        least=arguments.least,
        threads=arguments.threads,
    )
    necessary = chosen.flops(setup) if chosen.flops else None
    print(json.dumps({**dataclasses.asdict(timing), "flops": necessary}))


if __name__ == "__main__":
    main()

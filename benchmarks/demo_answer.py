"""What finished demos say, one by one and together: their shares of the gain, and three claims.

    .venv/bin/python benchmarks/demo_answer.py runs/benchmark/default-{5,6,7,8,9}

The runs are judged together by the rule of any run, with a bootstrap over prompts and bases; every
fine-tune has a base of its own. The claims are those with which this question began: the ability
grows smoothly, the old heads are still at work on the old task, new heads come late.
"""

import argparse
import itertools
from pathlib import Path

import polars as pl

import circuitlapse as cl
from circuitlapse.compare.decision import decide_causes
from circuitlapse.pipeline.decide import run_of
from circuitlapse.pipeline.tabulate import Scores
from circuitlapse.records import CAUSES, Estimate, Store

USED = ("kept", "strengthened", "weakened", "repurposed")


def shown(estimate: Estimate | None) -> str:
    """Write an estimate with its interval."""
    if estimate is None:
        return "not given"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def shares(runs: list[cl.Run]) -> None:
    """Print every run's shares and label, and those of all together."""
    print(f"| run | G, logits | {' | '.join(CAUSES)} | label |")
    print("|---|---|" + "---|" * (len(CAUSES) + 1))
    for run in runs:
        found = run.verdict
        cells = [shown(found.gain), *(shown(found.shares[cause]) for cause in CAUSES), found.label]
        print(f"| {run.path.name} | {' | '.join(cells)} |")
    opened = [Scores(Store(run.path), run.experiment) for run in runs]
    together = decide_causes(
        [run_of(scores, scores.experiment.arms()[0]) for scores in opened], seed=0
    )
    causes = together.causes
    cells = [shown(causes.gain), *(shown((causes.shares or {}).get(cause)) for cause in CAUSES)]
    print(f"| together | {' | '.join(cells)} | {together.label} |")
    print(f"\n{together.scope}: {together.reason}\n")


def claims(runs: list[cl.Run]) -> None:
    """Print what the three claims are about, for every run."""
    print(
        "| run | largest rise between neighbouring checkpoints | half of the rise, step "
        "| 90 %, step | old heads, still used on the old task | recruited | recruited for good, "
        "median step |"
    )
    print("|---|---|---|---|---|---|---|")
    for run in runs:
        curve = (
            run.table("behaviour")
            .filter(pl.col("task") == run.experiment.tasks.new, pl.col("split") == "test")
            .sort("step")
        )
        steps, values = curve["step"].to_list(), curve["accuracy_among"].to_list()
        rise = values[-1] - values[0]
        largest = max(after - before for before, after in itertools.pairwise(values))
        half, most = (
            next(s for s, v in zip(steps, values, strict=True) if v - values[0] >= part * rise)
            for part in (0.5, 0.9)
        )
        fates = run.table("fates").filter(
            pl.col("corruption") == run.experiment.measure.corruptions[0]
        )
        last = fates.filter(pl.col("step") == steps[-1])
        old = last.filter(pl.col("fate").is_in([*USED, "retired"])).height
        used = last.filter(pl.col("fate").is_in(USED)).height
        recruited = last.filter(pl.col("fate") == "recruited")["node"].to_list()
        # From the step after the last one at which the head was not recruited yet.
        since = [
            fates.filter(pl.col("node") == node, pl.col("fate") != "recruited")["step"].max()
            for node in recruited
        ]
        after = [steps[steps.index(step) + 1] for step in since]
        median = f"{pl.Series(after).median():.0f}" if after else "none"
        print(
            f"| {run.path.name} | {largest / rise:.2f} of {rise:.2f} | {half} | {most} "
            f"| {used} of {old} | {len(recruited)} | {median} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="Directories of finished demos.")
    runs = [cl.load_run(path) for path in parser.parse_args().runs]
    shares(runs)
    claims(runs)


if __name__ == "__main__":
    main()

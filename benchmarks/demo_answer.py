"""What finished demos say, one by one and together: shares, nulls, and three claims.

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
from circuitlapse.analyses.analysis import RunData
from circuitlapse.analyses.decide import findings_of, run_of
from circuitlapse.analyses.head_changes import last_changes
from circuitlapse.records.documents import CAUSES
from circuitlapse.records.store import Store
from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict.decision import decide_causes


def opened(run: cl.Run) -> RunData:
    """What was measured in a run."""
    return RunData(Store(run.path), run.experiment)


def shown(estimate: Estimate | None) -> str:
    """Write an estimate with its interval."""
    if estimate is None:
        return "not given"
    return estimate.text()


def shares(runs: list[cl.Run]) -> None:
    """Print every run's shares and label, and those of all together."""
    print(f"| run | G, logits | {' | '.join(CAUSES)} | label |")
    print("|---|---|" + "---|" * (len(CAUSES) + 1))
    for run in runs:
        found = run.verdict
        cells = [
            shown(found.improvement),
            *(shown(found.shares[cause]) for cause in CAUSES),
            found.label,
        ]
        print(f"| {run.path.name} | {' | '.join(cells)} |")
    found = []
    for run in runs:
        scores, training_run = opened(run), run.experiment.training_runs()[0]
        found.append(run_of(scores, training_run, findings_of(scores, training_run)))
    together = decide_causes(found, seed=0, names=[run.path.name for run in runs])
    causes = together.causes
    cells = [
        shown(causes.improvement),
        *(shown((causes.shares or {}).get(cause)) for cause in CAUSES),
    ]
    print(f"| together | {' | '.join(cells)} | {together.label} |")
    print(f"\n{together.scope}: {together.reason}\n")


def beside_random(runs: list[cl.Run]) -> None:
    """Print what the groups of heads do beside size-matched random heads, for every run."""
    print("| run | heads | grafted into the rescaled base | alone, the others held at the base |")
    print("|---|---|---|---|")
    for run in runs:
        tables = (
            run.table("grafts").filter(pl.col("origin") == "rescaled_base"),
            run.table("mediation"),
        )
        of = [
            {row["group"]: row for row in each.drop_nulls("n_random").to_dicts()} for each in tables
        ]
        for group in of[0]:
            cells = [
                f"{row['share']:.2f}; random "
                f"{row['null_mean'] * row['share'] / row['improvement']:.2f}, "
                f"p {row['p_value']:.2f}"
                for row in (each[group] for each in of)
            ]
            print(f"| {run.path.name} | {group} | {' | '.join(cells)} |")
    print()


def claims(runs: list[cl.Run]) -> None:
    """Print what the three claims are about, for every run."""
    print(
        "| run | largest rise between neighbouring checkpoints | half of the rise, step "
        "| 90 %, step | old heads, still used on the old task | recruited | recruited for good, "
        "median step | heads whose sign turns, on the old and the new task |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for run in runs:
        curve = (
            run.table("behaviour")
            .filter(pl.col("task") == run.experiment.tasks.new, pl.col("split") == "test")
            .sort("step")
        )
        steps, values = curve["step"].to_list(), curve["candidate_accuracy"].to_list()
        rise = values[-1] - values[0]
        largest = max(after - before for before, after in itertools.pairwise(values))
        half, most = (
            next(s for s, v in zip(steps, values, strict=True) if v - values[0] >= part * rise)
            for part in (0.5, 0.9)
        )
        scores, family = opened(run), run.experiment.measure.counterfactuals[0]
        last = last_changes(scores, run.experiment.training_runs()[0], family)
        old = len(last.old_heads) if last else 0
        used = len(last.still_used) if last else 0
        recruited = run.table("head_changes").filter(
            pl.col("counterfactual") == family,
            pl.col("step") == steps[-1],
            pl.col("category") == "recruited",
        )
        median = f"{recruited['since'].median():.0f}" if recruited.height else "none"
        heads = run.table("dynamics").filter(
            pl.col("counterfactual") == family, pl.col("kind") == "head"
        )
        flips = [
            str(heads.filter(pl.col("task") == task)["sign_changed"].sum())
            for task in (run.experiment.tasks.old, run.experiment.tasks.new)
        ]
        print(
            f"| {run.path.name} | {largest / rise:.2f} of {rise:.2f} | {half} | {most} "
            f"| {used} of {old} | {recruited.height} | {median} | {', '.join(flips)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="Directories of finished demos.")
    runs = [cl.load_run(path) for path in parser.parse_args().runs]
    shares(runs)
    beside_random(runs)
    claims(runs)


if __name__ == "__main__":
    main()

"""What a run says at its end, in a few lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.table import Table

from circuitlapse.api import Run
from circuitlapse.cli.training import print_training

if TYPE_CHECKING:
    from circuitlapse.pipeline.estimate import Estimated

_TOP_HEADS = 5


def print_summary(run: Run, console: Console) -> None:
    """Print how training went, and for each recipe its behaviour, top heads and verdict."""
    print_training(run, console)
    for name, part in run.recipes.items():
        if len(run.recipes) > 1:
            console.rule(f"recipe {name}", align="left")
        _print_recipe(part, console)


def _print_recipe(run: Run, console: Console) -> None:
    tasks, steps = run.experiment.tasks, run.experiment.steps()
    console.print(_behaviour(run, steps[-1]), "", _heads(run, steps[-1]), "")
    verdict = run.verdict
    console.print(f"Verdict: {verdict.label} ({verdict.scope})", highlight=False)
    console.print(verdict.reason, highlight=False, markup=False)
    for one in verdict.seeds:
        shares = ", ".join(
            f"{cause} {share.text()}"
            for cause, share in one.shares.items() if share is not None
        )  # fmt: skip
        console.print(
            f"  seed {one.finetune_seed}: {one.label}; G {one.gain.text()}; "
            f"{shares or 'no shares'}",
            highlight=False,
        )
    console.print(f"The rule: {verdict.calibration}.", highlight=False, markup=False)
    failed = [check for check in verdict.preconditions if not check.holds]
    for check in failed:
        console.print(f"  fails: {check.name} ({check.detail})", highlight=False, markup=False)
    question = f"{tasks.old} -> {tasks.new}"
    console.print(f"\nReport ({question}): {run.report}", highlight=False, soft_wrap=True)


def _behaviour(run: Run, last: int) -> Table:
    table = Table(
        title="Behaviour on held-out prompts, mean and 95 % interval", title_justify="left"
    )
    for column in ("task", "split", "seed", "step"):
        table.add_column(column)
    for column in ("accuracy", "among the names", "logit difference", "n"):
        table.add_column(column, justify="right")
    rows = run.table("behaviour").filter(pl.col("step").is_in([0, last]))
    for row in rows.sort("task", "split", "finetune_seed", "step").iter_rows(named=True):
        cells = [
            f"{row[q]:.2f} [{row[f'{q}_low']:.2f}, {row[f'{q}_high']:.2f}]"
            for q in ("accuracy", "accuracy_among", "logit_diff")
        ]
        step = "base" if row["step"] == 0 else str(row["step"])
        seed = str(row["finetune_seed"])
        table.add_row(row["task"], row["split"], seed, step, *cells, str(row["n"]))
    return table


def _heads(run: Run, last: int) -> Table:
    old, new = run.experiment.tasks.old, run.experiment.tasks.new
    family, seed = run.experiment.measure.corruptions[0], run.seed
    fates = dict(
        run.table("fates")
        .filter(
            (pl.col("corruption") == family)
            & (pl.col("finetune_seed") == seed)
            & (pl.col("step") == last)
        )
        .select("node", "fate")
        .iter_rows()
    )
    nodes = run.table("nodes").filter(
        (pl.col("kind") == "head")
        & (pl.col("corruption") == family)
        & (pl.col("finetune_seed") == seed)
    )
    table = Table(
        title=f"Top heads by patching effect in logits (corruption: {family}, seed {seed})",
        title_justify="left",
    )
    columns = []
    for label, step, task in ((f"base, {old}", 0, old), (f"tuned, {new}", last, new)):
        table.add_column(label)
        table.add_column("effect", justify="right")
        table.add_column("fate")
        rows = nodes.filter((pl.col("step") == step) & (pl.col("task") == task))
        rows = rows.sort(pl.col("effect").abs(), descending=True).head(_TOP_HEADS)
        columns.append(
            [
                (r["node"], f"{r['effect']:.2f} [{r['effect_low']:.2f}, {r['effect_high']:.2f}]",
                 fates.get(r["node"], ""))
                for r in rows.iter_rows(named=True)
            ]
        )  # fmt: skip
    for before, after in zip(*columns, strict=True):
        table.add_row(*before, *after)
    return table


def print_estimates(jobs: "Sequence[Estimated]", console: Console) -> None:
    """Print the jobs of a dry run, and their sums."""
    table = Table(title="Jobs, projected", title_justify="left")
    table.add_column("job")
    table.add_column("state")
    for column in ("seconds", "memory (MiB)", "disk (MiB)"):
        table.add_column(column, justify="right")
    for job in jobs:
        table.add_row(job.name, job.state, f"{job.seconds:.1f}", f"{job.memory_mib:.0f}",
                      f"{job.disk_mib:.1f}")  # fmt: skip
    console.print(table)
    todo = [job for job in jobs if job.state != "ready"]
    seconds, disk = sum(job.seconds for job in todo), sum(job.disk_mib for job in todo)
    memory = max((job.memory_mib for job in todo), default=0)
    console.print(
        f"{len(todo)} of {len(jobs)} jobs to do: about {seconds:.0f} s of work for one process, "
        f"{memory:.0f} MiB at the most in each process, {disk:.0f} MiB on disk.",
        highlight=False,
    )

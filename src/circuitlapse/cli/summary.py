"""The printed summary of a run: training, behaviour, top heads and verdict."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl
from rich.console import Console
from rich.table import Table

from circuitlapse.api.finished_run import Run
from circuitlapse.stats.intervals import Estimate

if TYPE_CHECKING:
    from circuitlapse.pipeline.run.estimates import Estimated


_TOP_HEADS = 5


def print_summary(run: Run, console: Console) -> None:
    """Print the training, and for each recipe its behaviour, top heads and verdict."""
    print_training(run, console)
    for name, part in run.recipes.items():
        if len(run.recipes) > 1:
            console.rule(f"recipe {name}", align="left")
        _print_recipe(part, console)


def _print_recipe(run: Run, console: Console) -> None:
    tasks, steps = run.experiment.tasks, run.experiment.steps()
    console.print(_behaviour(run, steps[-1]), "", _heads(run, steps[-1]), "")
    _print_verdict(run, steps[-1], console)
    question = f"{tasks.old} -> {tasks.new}"
    console.print(f"\nReport ({question}): {run.report}", highlight=False, soft_wrap=True)


def _print_verdict(run: Run, last: int, console: Console) -> None:
    verdict = run.verdict
    for line in (
        f"Verdict: {verdict.name} ({verdict.scope})",
        verdict.sentence,
        *([verdict.reason] if verdict.label == "undetermined" else []),
        f"Was it there? {verdict.was_it_there}",
        f"What carries it? {verdict.what_carries_it}",
    ):
        console.print(line, highlight=False, markup=False)
    console.print("", _measures(run, last), "")
    seeds = verdict.seeds if len(verdict.seeds) > 1 else []
    for line in (
        *verdict.would_change,
        *(each.statement for each in verdict.evidence if each.table == "carriers"),
        *verdict.says_not,
        *(f"  seed {one.finetune_seed}: {one.name}; {one.reason}" for one in seeds),
        *(f"  fails: {c.name} ({c.detail})" for c in verdict.preconditions if not c.holds),
        f"The rule: {verdict.calibration}.",
    ):
        console.print(line, highlight=False, markup=False)


_MEASURES = {
    ("", "variable_effect"): "",
    ("old", "dependence"): "old-task heads",
    ("old", "same_directions"): "old-task heads",
    ("early", "same_directions"): "old-task heads without late writers",
    ("old", "sufficiency"): "old-task heads",
    ("new", "sufficiency"): "new heads",
    ("new", "necessity"): "new heads",
    ("driving", "necessity"): "driving heads",
    ("relearned", "same_directions"): "relearned control",
}


def _measures(run: Run, last: int) -> Table:
    """The measures that the label is made from, of the first seed; all are in the tables."""
    table = Table(title=f"Measures, 95 % intervals (seed {run.seed})", title_justify="left")
    for column in ("measure", "of heads", "value", "largest random group"):
        table.add_column(column)
    this = (pl.col("finetune_seed") == run.seed) & (pl.col("step") == last)
    rows = {
        (row["heads"], row["measure"]): row
        for row in run.table("carriers").filter(this).iter_rows(named=True)
    }
    ratios = run.table("bits").filter(finetune_seed=run.seed, which="ratio")
    for row in ratios.iter_rows(named=True):
        bits = Estimate.of(row, "value")
        table.add_row("bits_ratio", "", bits.text() if bits else row["not_reported"], "")
    for (heads, measure), title in _MEASURES.items():
        row = rows.get((heads, measure))
        if row is None:
            continue
        found = Estimate.of(row, "value")
        most = "" if row["null_max"] is None else f"{row['null_max']:.2f} of {row['n_random']}"
        table.add_row(measure, title, found.text() if found else row["not_reported"], most)
    return table


def _behaviour(run: Run, last: int) -> Table:
    table = Table(
        title="Behaviour on held-out prompts, mean and 95 % interval", title_justify="left"
    )
    for column in ("task", "split", "seed", "step"):
        table.add_column(column)
    for column in ("accuracy", "candidate accuracy", "logit difference", "n"):
        table.add_column(column, justify="right")
    rows = run.table("behaviour").filter(pl.col("step").is_in([0, last]))
    for row in rows.sort("task", "split", "finetune_seed", "step").iter_rows(named=True):
        cells = [
            f"{row[q]:.2f} [{row[f'{q}_low']:.2f}, {row[f'{q}_high']:.2f}]"
            for q in ("accuracy", "candidate_accuracy", "logit_diff")
        ]
        step = "base" if row["step"] == 0 else str(row["step"])
        seed = str(row["finetune_seed"])
        table.add_row(row["task"], row["split"], seed, step, *cells, str(row["n"]))
    return table


def _heads(run: Run, last: int) -> Table:
    old, new = run.experiment.tasks.old, run.experiment.tasks.new
    family, seed = run.experiment.measure.counterfactuals[0], run.seed
    changes = dict(
        run.table("head_changes")
        .filter(
            (pl.col("counterfactual") == family)
            & (pl.col("finetune_seed") == seed)
            & (pl.col("step") == last)
        )
        .select("node", "category")
        .iter_rows()
    )
    nodes = run.table("nodes").filter(
        (pl.col("kind") == "head")
        & (pl.col("counterfactual") == family)
        & (pl.col("finetune_seed") == seed)
    )
    table = Table(
        title=f"Top heads by patching effect in logits (counterfactual: {family}, seed {seed})",
        title_justify="left",
    )
    columns = []
    for label, step, task in ((f"base, {old}", 0, old), (f"tuned, {new}", last, new)):
        table.add_column(label)
        table.add_column("effect", justify="right")
        table.add_column("category")
        rows = nodes.filter((pl.col("step") == step) & (pl.col("task") == task))
        rows = rows.sort(pl.col("effect").abs(), descending=True).head(_TOP_HEADS)
        columns.append(
            [
                (
                    r["node"],
                    f"{r['effect']:.2f} [{r['effect_low']:.2f}, {r['effect_high']:.2f}]",
                    changes.get(r["node"], ""),
                )
                for r in rows.iter_rows(named=True)
            ]
        )
    for before, after in zip(*columns, strict=True):
        table.add_row(*before, *after)
    return table


def print_estimates(jobs: "Sequence[Estimated]", console: Console) -> None:
    """Print the jobs of a dry run and their sums."""
    table = Table(title="Jobs, projected", title_justify="left")
    table.add_column("job")
    table.add_column("state")
    for column in ("seconds", "memory (MiB)", "disk (MiB)"):
        table.add_column(column, justify="right")
    for job in jobs:
        table.add_row(
            job.name,
            job.state,
            f"{job.seconds:.1f}",
            f"{job.memory_mib:.0f}",
            f"{job.disk_mib:.1f}",
        )
    console.print(table)
    todo = [job for job in jobs if job.state != "ready"]
    seconds, disk = sum(job.seconds for job in todo), sum(job.disk_mib for job in todo)
    memory = max((job.memory_mib for job in todo), default=0)
    console.print(
        f"{len(todo)} of {len(jobs)} jobs to do: about {seconds:.0f} s with one process, at most "
        f"{memory:.0f} MiB of memory per process, {disk:.0f} MiB on disk.",
        highlight=False,
    )


_STEPS = 6  # that are shown; all are in the table
_SPLITS = {"train": "training", "validation": "held out", "old_task": "old task"}
_MEANING = {
    "end_of_text": "the end-of-text token is predicted after most prompts",
    "overfit": "training accuracy exceeds held-out accuracy (intervals do not overlap)",
    "old_task_lost": "the old-task accuracy is below four fifths of the base's",
    "diverged": "training diverged after this step: a number was not finite",
    "not_learning": "held-out loss and accuracy did not improve (intervals overlap)",
}


def print_training(run: Run, console: Console) -> None:
    """Print the curves of every recipe, then the warnings."""
    table = run.table("training")
    if table.is_empty():
        return
    # A recipe that diverged is in this table alone.
    several, seed = table["recipe"].n_unique() > 1, run.seed
    console.print(_curves(table.filter(pl.col("finetune_seed") == seed), several, seed))
    for line in flag_lines(table, several=several):
        console.print(f"  warning: {line}", highlight=False, markup=False)
    console.print("")


def _curves(table: pl.DataFrame, several: bool, seed: int) -> Table:
    steps = _some(sorted(table["step"].unique()))
    curves = Table(
        title=f"Training (seed {seed}): accuracy, and loss in nats per token, at each step",
        title_justify="left",
    )
    for column in (*(["recipe"] if several else []), "prompts"):
        curves.add_column(column)
    for step in steps:
        curves.add_column("base" if step == 0 else str(step), justify="right")
    for (recipe, split), part in table.group_by("recipe", "split", maintain_order=True):
        at = {row["step"]: row for row in part.iter_rows(named=True)}
        cells = [
            f"{at[step]['accuracy']:.2f} ({at[step]['loss']:.2f})" if step in at else "\u2013"
            for step in steps
        ]
        named = _SPLITS.get(str(split), str(split))
        curves.add_row(*([str(recipe)] if several else []), named, *cells)
    return curves


def _some(steps: list[int]) -> list[int]:
    """At most ``_STEPS`` of the steps, evenly spread, including the first and the last."""
    if len(steps) <= _STEPS:
        return steps
    last = len(steps) - 1
    return [steps[round(index * last / (_STEPS - 1))] for index in range(_STEPS)]


def flag_lines(table: pl.DataFrame, *, several: bool) -> list[str]:
    """Return a line for each fine-tune and warning: its steps and its meaning."""
    found: dict[tuple[str, int, str], list[Mapping]] = {}
    for row in table.sort("step", maintain_order=True).iter_rows(named=True):
        for flag in filter(None, row["flags"].split(",")):
            found.setdefault((row["recipe"], row["finetune_seed"], flag), []).append(row)
    lines = []
    for (recipe, seed, flag), rows in found.items():
        which = f"{recipe}, seed {seed}" if several else f"seed {seed}"
        steps = len({row["step"] for row in rows})
        at = f"step {rows[0]['step']}" + (f" and {steps - 1} later" if steps > 1 else "")
        lines.append(f"{flag} ({which}, {at}): {_MEANING[flag]}")
    return lines

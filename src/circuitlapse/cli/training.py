"""How the fine-tunes went: curves side by side, and the traps that they show."""

from collections.abc import Mapping

import polars as pl
from rich.console import Console
from rich.table import Table

from circuitlapse.api import Run

_STEPS = 6  # that are shown; all are in the table
_SPLITS = {"train": "trained on", "validation": "held out", "old_task": "old task"}
_MEANING = {
    "end_of_text": "the end-of-text token is predicted after most prompts",
    "overfit": "demonstrably more prompts that were trained on are right than held-out ones",
    "old_task_lost": "less than four fifths of the base's right answers on the old task are left",
    "diverged": "after it the training blew up: some number was no longer finite",
    "not_learning": "on held-out prompts neither loss nor accuracy is demonstrably better",
}


def print_training(run: Run, console: Console) -> None:
    """Print the curves of every recipe under one another, then the flags."""
    table = run.table("training")
    if table.is_empty():
        return
    # A recipe that blew up is in this table alone.
    several, seed = table["recipe"].n_unique() > 1, run.seed
    console.print(_curves(table.filter(pl.col("finetune_seed") == seed), several, seed))
    for line in flag_lines(table, several=several):
        console.print(f"  flag: {line}", highlight=False, markup=False)
    console.print("")


def _curves(table: pl.DataFrame, several: bool, seed: int) -> Table:
    steps = _some(sorted(table["step"].unique()))
    curves = Table(
        title=f"Training (seed {seed}): share of right answers, and loss in nats, at each step",
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
    """At most so many steps, evenly spread, the first and the last among them."""
    if len(steps) <= _STEPS:
        return steps
    last = len(steps) - 1
    return [steps[round(index * last / (_STEPS - 1))] for index in range(_STEPS)]


def flag_lines(table: pl.DataFrame, *, several: bool) -> list[str]:
    """One line for each fine-tune and flag: since which step, at how many, and what it means."""
    found: dict[tuple[str, int, str], list[Mapping]] = {}
    for row in table.sort("step", maintain_order=True).iter_rows(named=True):
        # Runs of earlier versions have a blank behind each comma.
        for flag in filter(None, map(str.strip, row["flags"].split(","))):
            found.setdefault((row["recipe"], row["finetune_seed"], flag), []).append(row)
    lines = []
    for (recipe, seed, flag), rows in found.items():
        which = f"{recipe}, seed {seed}" if several else f"seed {seed}"
        steps = len({row["step"] for row in rows})
        at = f"step {rows[0]['step']}" + (f" and {steps - 1} later" if steps > 1 else "")
        lines.append(f"{flag} ({which}, {at}): {_MEANING[flag]}")
    return lines

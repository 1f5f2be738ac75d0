"""``circuitlapse show``: the summary of a run, and its two circuits as a map of characters."""

import math
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.text import Text

from circuitlapse.api import Run, load_run
from circuitlapse.cli.console import console_of
from circuitlapse.cli.summary import print_summary

_SHADES = " .:~=+*#%@"


def show(run: Annotated[Path, typer.Argument(help="Directory of a finished run.")]) -> None:
    """Print a run's summary and a compact map of both circuits, before and after."""
    opened, console = load_run(run), console_of()
    print_summary(opened, console)
    for name, part in opened.recipes.items():
        console.print(f"\nrecipe {name}" if len(opened.recipes) > 1 else "")
        for line in map_lines(part):
            console.print(line, soft_wrap=True, highlight=False)


def map_lines(run: Run) -> list[Text]:
    """Draw the effect of every head and MLP: old task in the base beside new task at the end."""
    old, new = run.experiment.tasks.old, run.experiment.tasks.new
    family, seed = run.experiment.measure.corruptions[0], run.seed
    nodes = run.table("nodes").filter(
        (pl.col("corruption") == family) & (pl.col("finetune_seed") == seed)
    )
    last = run.experiment.steps()[-1]
    shown = [(f"base, {old}", 0, old), (f"tuned, {new}", last, new)]
    effects = {
        title: {
            (layer, head): effect
            for layer, head, effect in nodes.filter(
                (pl.col("step") == step) & (pl.col("task") == task)
            )
            .select("layer", "head", "effect")
            .iter_rows()
        }
        for title, step, task in shown
    }
    sizes = [abs(effect) for found in effects.values() for (_, head), effect in found.items()
             if head >= 0]  # fmt: skip
    largest = max(sizes, default=0.0) or 1.0
    n_layers = 1 + max(layer for found in effects.values() for layer, _ in found)
    n_heads = 1 + max(head for found in effects.values() for _, head in found)
    width = 3 * n_heads + 6
    lines = [Text("        " + "".join(title.ljust(max(width, 20)) for title in effects))]
    for layer in reversed(range(n_layers)):
        line = Text(f"layer {layer:<2d}".ljust(8))
        for found in effects.values():
            row = Text()
            for head in range(n_heads):
                row.append(_cell(found.get((layer, head)), largest)).append(" ")
            row.append("|").append(_cell(found.get((layer, -1)), largest))
            line.append(row).append(" " * (max(width, 20) - len(row)))
        lines.append(line)
    lines.append(Text(
        f"Heads 0 to {n_heads - 1} | MLP; patching effect from '{_SHADES[1]}' to '{_SHADES[-1]}' "
        f"= {largest:.2f} logits or more, by its square root; a minus works against the answer. "
        f"Corruption {family}, seed {seed}."
    ))  # fmt: skip
    return lines


def _cell(effect: float | None, largest: float) -> Text:
    if effect is None:
        return Text(" ?")
    size = math.sqrt(min(1.0, abs(effect) / largest))
    shade = _SHADES[round(size * (len(_SHADES) - 1))]
    sign, colour = ("-", "yellow") if effect < 0 and shade != " " else (" ", "blue")
    return Text(sign + shade, style=f"bold {colour}" if size > 0.6 else colour)

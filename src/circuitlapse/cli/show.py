"""``circuitlapse show``: a run's summary and map. ``circuitlapse try``: a prompt of your own."""

import math
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from circuitlapse.api.finished_run import Run, load_run
from circuitlapse.cli.console import console_of, counting
from circuitlapse.cli.export import Recipe, Seed
from circuitlapse.cli.summary import print_summary
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import Trial
from circuitlapse.records.store import replacing
from circuitlapse.report.series.labels import node_label

_SHADES = " .:~=+*#%@"


def show(run: Annotated[Path, typer.Argument(help="Directory of a finished run.")]) -> None:
    """Print a run's summary and a map of both circuits, before and after fine-tuning."""
    opened, console = load_run(run), console_of()
    print_summary(opened, console)
    for name, part in opened.recipes.items():
        console.print(f"\nrecipe {name}" if len(opened.recipes) > 1 else "")
        for line in map_lines(part):
            console.print(line, soft_wrap=True, highlight=False)


def map_lines(run: Run) -> list[Text]:
    """Draw the effect of every head and MLP: old task in the base, new task at the end."""
    old, new = run.experiment.tasks.old, run.experiment.tasks.new
    family, seed = run.experiment.measure.counterfactuals[0], run.seed
    nodes = run.table("nodes").filter(
        (pl.col("counterfactual") == family) & (pl.col("finetune_seed") == seed)
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
    sizes = [
        abs(effect)
        for found in effects.values()
        for (_, head), effect in found.items()
        if head >= 0
    ]
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
    lines.append(
        Text(
            f"Heads 0 to {n_heads - 1} | MLP; patching effect from '{_SHADES[1]}' to "
            f"'{_SHADES[-1]}' = {largest:.2f} logits or more, on a square-root scale; minus: works "
            f"against the answer. Counterfactual {family}, seed {seed}."
        )
    )
    return lines


def _cell(effect: float | None, largest: float) -> Text:
    if effect is None:
        return Text(" ?")
    size = math.sqrt(min(1.0, abs(effect) / largest))
    shade = _SHADES[round(size * (len(_SHADES) - 1))]
    sign, colour = ("-", "yellow") if effect < 0 and shade != " " else (" ", "blue")
    return Text(sign + shade, style=f"bold {colour}" if size > 0.6 else colour)


_ATTENDED = 2  # tokens that are named for each head


def try_prompt(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    prompt: Annotated[str, typer.Argument(help="Text that ends directly before the answer.")],
    top: Annotated[int, typer.Option(min=1, max=20, help="Print this number of next tokens.")] = 3,
    seed: Seed = None,
    recipe: Recipe = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page like the report to this file instead of printing."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Compute on auto, cpu, cuda, cuda:1 and so on.")
    ] = "auto",
) -> None:
    """Run a prompt at every checkpoint.

    Prints next tokens, the logit lens and the attention of the circuit's heads.
    """
    if html is not None and html.is_dir():
        raise CircuitlapseError(f"{html} is a directory", fix="Name a file, such as page.html")
    opened = load_run(run, recipe)
    with counting(Console(stderr=True), "checkpoints") as advance:
        tried = opened.try_prompt(prompt, max(top, 5) if html else top, seed, device, advance)
    if html is not None:
        with replacing(html) as draft:
            draft.write_text(tried.html, encoding="utf-8")
        typer.echo(f"Page: {html}")
        return
    console = console_of()
    for table in tables(tried):
        console.print(table, "")


def tables(trial: Trial) -> list[Table]:
    """Return tables of next tokens, the logit lens and the heads' attention, by step."""
    n_layers = len(trial.lens[0]) - 1
    found = [
        _table("Next tokens, with probabilities", ["tokens"]),
        _table(
            "Logit lens: the most probable token before each layer and at the end",
            [*map(str, range(n_layers)), "end"],
        ),
    ]
    if trial.heads:
        names = [node_label(head) for head in trial.heads]
        found.append(_table("Attention of the circuit's heads from the last token", names))
    for place, step in enumerate(trial.steps):
        attended = [_attended(trial, weights) for weights in trial.attention[place]]
        cells = [
            [_words(trial.top[place])],
            [_words([each]) for each in trial.lens[place]],
            attended,
        ]
        for table, row in zip(found, cells, strict=False):
            table.add_row("base" if step == 0 else str(step), *map(Text, row))
    return found


def _table(title: str, columns: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("step", *columns):
        table.add_column(column, overflow="fold")
    return table


def _words(found: list[tuple[str, float]]) -> str:
    return ", ".join(f"{token.strip() or repr(token)} {value:.2f}" for token, value in found)


def _attended(trial: Trial, weights) -> str:
    order = sorted(range(len(trial.tokens)), key=lambda place: -weights[place])[:_ATTENDED]
    return _words([(trial.tokens[place], float(weights[place])) for place in order])

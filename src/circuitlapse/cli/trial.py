"""``circuitlapse try``: a prompt of one's own, at every checkpoint of a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from circuitlapse.api import load_run
from circuitlapse.cli.console import console_of
from circuitlapse.cli.progress import counting
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import replacing
from circuitlapse.records.trial import Trial
from circuitlapse.report.names import node_label

_LOOKS = 2  # tokens that are named for each head


def try_prompt(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    prompt: Annotated[str, typer.Argument(help="Text that ends right before the answer.")],
    top: Annotated[int, typer.Option(min=1, max=20, help="Next tokens to name.")] = 3,
    seed: Annotated[
        int | None, typer.Option(help="Fine-tuning seed; by default the first one.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="One of a grid's recipes.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page like the report instead of printing.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 and so on.")] = "auto",
) -> None:
    """Ask every checkpoint what comes after a prompt: next tokens, logit lens, circuit's heads."""
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
    """Lay out the next tokens, the logit lens and the heads' attention, a row for each step."""
    n_layers = len(trial.lens[0]) - 1
    found = [
        _table("Next tokens, with probabilities", ["tokens"]),
        _table("Logit lens: the leading token before each layer and at the end",
               [*map(str, range(n_layers)), "end"]),
    ]  # fmt: skip
    if trial.heads:
        names = [node_label(head) for head in trial.heads]
        found.append(_table("Where the circuit's heads look from the last token", names))
    for place, step in enumerate(trial.steps):
        looks = [_looks(trial, weights) for weights in trial.attention[place]]
        cells = [[_words(trial.top[place])], [_words([each]) for each in trial.lens[place]], looks]
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


def _looks(trial: Trial, weights) -> str:
    order = sorted(range(len(trial.tokens)), key=lambda place: -weights[place])[:_LOOKS]
    return _words([(trial.tokens[place], float(weights[place])) for place in order])

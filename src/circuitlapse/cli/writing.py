"""``circuitlapse tasks write``: items that a language model writes."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from circuitlapse.cli.console import console_of
from circuitlapse.cli.written import (
    Out,
    Rejects,
    TaskName,
    TokenizerName,
    load_tokenizer,
    print_items,
    print_reasons,
    rejects_beside,
)
from circuitlapse.errors import CircuitlapseError

if TYPE_CHECKING:
    from circuitlapse.writing.write import Listener, Progress


def write(
    model: Annotated[str, typer.Option(help="The model's name at the server.")],
    out: Out,
    n: Annotated[int, typer.Option("--n", min=1, help="Good items to end with.")] = 100,
    base_url: Annotated[
        str | None,
        typer.Option(help="Such as http://localhost:8000/v1; by default OpenAI's own."),
    ] = None,
    task: TaskName = "ioi3",
    rejects: Rejects = None,
    journal: Annotated[
        Path | None, typer.Option(help="File that keeps every reply; by default beside --out.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Items to ask for in one request.")] = 10,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one attempt.")] = 120.0,
    first_wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds before trying again; doubled each time.")
    ] = 1.0,
    tokenizer: TokenizerName = None,
) -> None:
    """Have an OpenAI-compatible server write items, check them, and keep the good ones.

    The answer stands equally often at each place of the list. Every reply goes to the journal
    first: stopped at any moment, the same command goes on without asking again for what it has.
    """
    key = os.environ.get(key_env)
    if not key:
        raise CircuitlapseError(
            f"there is no key in the environment variable {key_env}",
            fix="Set it, to any text where the server needs no key; --key-env names another one",
        )
    from circuitlapse.writing.server import Server
    from circuitlapse.writing.write import write_items

    server = Server(model, key, base_url, concurrency=concurrency, timeout=timeout, wait=first_wait)
    journal, rejects = journal or out.with_suffix(".journal.jsonl"), rejects or rejects_beside(out)
    if len({path.resolve() for path in (out, rejects, journal)}) < 3:
        raise CircuitlapseError(
            "items, rejects and journal need a file each", got=str(out), fix="Change --out"
        )
    reader = load_tokenizer(tokenizer)
    with _watch(n) as listen:
        found = write_items(server, journal, task, n, batch=batch, tokenizer=reader, listen=listen)
    found.sorted.save(out, rejects)
    screen = console_of()
    surplus = f", {found.surplus} more than their place needed" if found.surplus else ""
    rejected = len(found.sorted.rejects)
    screen.print(f"{n} good items from {found.replies} replies, {rejected} rejected{surplus}")
    print_reasons(found.sorted.counts(), screen)
    print_items(found.sorted.items, screen)
    screen.print(
        f"Items: {out}\nRejects: {rejects}\nJournal: {journal}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _watch(n: int) -> "Iterator[Listener]":
    """Give a listener that shows a bar on a terminal, and a line for each reply anywhere else."""
    screen = Console(stderr=True)
    if not screen.is_terminal:

        def say(now: "Progress") -> None:
            screen.print(f"{_where(now)} ({now.good} of {now.n} items)", highlight=False)

        yield say
        return
    columns = (TextColumn("items"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, TextColumn("{task.description}"), console=screen, transient=True) as bars:
        bar = bars.add_task("", total=n)
        yield lambda now: bars.update(bar, completed=now.good, description=_where(now))


def _where(now: "Progress") -> str:
    return f"{now.replies} replies, {now.rejected} rejected"

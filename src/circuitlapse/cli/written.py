"""``circuitlapse tasks import`` and ``tasks write``: prompts from people or language models."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from circuitlapse.cli.console import console_of
from circuitlapse.errors import CircuitlapseError
from circuitlapse.written.recipient import MEANINGS, WrittenTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuitlapse.written.sort import Sorted

TaskName = Annotated[
    WrittenTask,
    typer.Option(help="Set the task. ioi2: two people, one acts. ioi3: three people, two act."),
]
Out = Annotated[
    Path, typer.Option(help="Write the good items to this JSONL file, for compare --new.")
]
Rejects = Annotated[
    Path | None,
    typer.Option(
        help="Write the rejects and their reasons to this file.", show_default="OUT.rejects.jsonl"
    ),
]
TokenizerName = Annotated[
    str | None,
    typer.Option(
        help="Reject items with names that this tokenizer splits (directory or Hub name)."
    ),
]


def import_(
    file: Annotated[Path, typer.Argument(help="JSON or JSONL with prompt and completion.")],
    out: Out,
    rejects: Rejects = None,
    task: TaskName = "ioi3",
    tokenizer: TokenizerName = None,
) -> None:
    """Import prompts and keep those with exactly one answer.

    Prints the rejects by reason and the accuracy of shortcuts on the rest.
    """
    from circuitlapse.written.sort import sort_items

    rejects = rejects or out.with_suffix(".rejects.jsonl")
    found = sort_items(file, task, load_tokenizer(tokenizer))
    _check_apart(file, out, rejects)
    found.save(out, rejects)
    n = len(found.items) + len(found.rejects)
    screen = console_of()
    screen.print(f"{n} items: {len(found.items)} good, {len(found.rejects)} rejected")
    for times, count in sorted(found.repeated.items()):
        screen.print(f"{count} answers repeat one name {times} times: read as the name once")
    _print(found, {"Items": out, "Rejects": rejects})


def write(
    model: Annotated[str, typer.Option(help="Use the server's model of this name.")],
    out: Out,
    n: Annotated[int, typer.Option("--n", min=1, help="Write this number of good items.")] = 100,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Call this server, such as http://localhost:8000/v1.", show_default="OpenAI"
        ),
    ] = None,
    task: TaskName = "ioi3",
    rejects: Rejects = None,
    journal: Annotated[
        Path | None,
        typer.Option(help="Write every reply to this file.", show_default="OUT.journal.jsonl"),
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Read the key from this environment variable.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[
        int, typer.Option(min=1, help="Send this number of requests in parallel.")
    ] = 8,
    batch: Annotated[
        int, typer.Option(min=1, help="Ask for this number of items per request.")
    ] = 10,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Stop an attempt after this number of seconds.")
    ] = 120.0,
    tokenizer: TokenizerName = None,
) -> None:
    """Write items with a language model, check them and keep the good ones.

    The answer is equally often at each list position. Every reply is saved in the journal before it
    is read. The same command resumes.
    """
    key = os.environ.get(key_env, "").strip()
    if not key:
        raise CircuitlapseError(
            f"the environment variable {key_env} has no key",
            fix="Set it (to any text if the server needs none), or name another with --key-env",
        )
    from circuitlapse.written.server import Server
    from circuitlapse.written.write import write_items

    def listen(now: "Sorted") -> None:
        good, rejected = len(now.items), len(now.rejects)
        typer.echo(f"{good} of {n} items, {now.replies} replies, {rejected} rejected", err=True)

    server = Server(model, key, base_url, timeout)
    journal = journal or out.with_suffix(".journal.jsonl")
    rejects = rejects or out.with_suffix(".rejects.jsonl")
    _check_apart(journal, out, rejects)
    found = write_items(
        server,
        journal,
        task,
        n,
        batch=batch,
        concurrency=concurrency,
        tokenizer=load_tokenizer(tokenizer),
        listen=listen,
    )
    found.save(out, rejects)
    more = f", {found.surplus} more than their list position needs" if found.surplus else ""
    rejected = len(found.rejects)
    console_of().print(f"{n} good items from {found.replies} replies, {rejected} rejected{more}")
    _print(found, {"Items": out, "Rejects": rejects, "Journal": journal})


def _check_apart(file: Path, out: Path, rejects: Path) -> None:
    for path in (out, rejects):
        if path == file or (path.exists() and file.exists() and path.samefile(file)):
            raise CircuitlapseError(
                "the output would overwrite the input",
                got=str(path),
                fix="Change --out or --rejects",
            )


def _print(found: "Sorted", paths: dict[str, Path]) -> None:
    """Print the rejects by reason, the accuracy of shortcuts, and the files."""
    from circuitlapse.records.items import shortcut_hits
    from circuitlapse.stats.intervals import proportion_interval

    screen, items = console_of(), found.items
    reasons = Table("reject", "items", "reason")
    for reason, count in found.counts().items():
        reasons.add_row(reason, str(count), MEANINGS[reason])
    if reasons.row_count:
        screen.print("", reasons)
    if items:
        head = "shortcut", f"accuracy on {len(items)} items, 95 % interval"
        scores = Table(*head)
        for rule, hits in shortcut_hits(items).items():
            scores.add_row(rule, proportion_interval(int(hits.sum()), len(items)).text(3))
        screen.print("", scores, "")
    for name, path in paths.items():
        screen.print(f"{name}: {path}", highlight=False, soft_wrap=True)


def load_tokenizer(source: str | None) -> "PreTrainedTokenizerBase | None":
    """Load a tokenizer by its directory or name, if one is given."""
    if source is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    # Broken files raise anything from OSError to json's own types.
    except Exception as error:
        raise CircuitlapseError(
            f"the tokenizer could not be loaded: {' '.join(str(error).split())[:300]}",
            got=source,
            fix="Give a directory that save_pretrained wrote, or a name on the Hub",
        ) from error

"""``circuitlapse tasks``: the prompts of built-in and custom tasks."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from circuitlapse.cli.console import console_of
from circuitlapse.cli.written import import_, load_tokenizer, write
from circuitlapse.errors import CircuitlapseError

if TYPE_CHECKING:
    from circuitlapse.records.items import Item


_MOST_SHOWN = 6  # distractors

tasks = typer.Typer(
    no_args_is_help=True,
    help="List tasks, show and export their prompts, import prompts, or write some with a language "
    "model.",
)
tasks.command("import")(import_)
tasks.command("write")(write)

TaskName = Annotated[
    str, typer.Argument(help="Name of a built-in task, or path of a JSONL file or data set.")
]
Split = Annotated[
    str,
    typer.Option(
        help="Take items of train, validation, test, validation_templates or test_templates."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Draw items with this seed.")]
TokenizerName = Annotated[
    str | None,
    typer.Option(help="Use only words that are single tokens here (directory or Hub name)."),
]


@tasks.command("list")
def list_() -> None:
    """List the tasks with their questions, counterfactuals and invariance checks."""
    from circuitlapse.tasks.battery import TASKS

    table = Table("task", "question", "counterfactuals by type", "invariance checks")
    for task in TASKS.values():
        families = "; ".join(f"{name}: {', '.join(v)}" for name, v in task.families.items())
        table.add_row(task.name, task.question, families, ", ".join(task.invariance))
    console_of().print(table)


@tasks.command()
def show(
    task: TaskName,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Take this number of items.")] = 3,
    split: Split = "test",
    seed: Seed = 0,
    tokenizer: TokenizerName = None,
) -> None:
    """Show items: prompt with named positions, answers, counterfactuals, and the reference task."""
    from circuitlapse.tasks.reference_task import why_no_reference
    from circuitlapse.tasks.registry import get_task

    screen, found = console_of(), get_task(task)
    items = found.items(split, n, seed, load_tokenizer(tokenizer))
    for item in items:
        rows = [("prompt", _marked(item)), ("answer", repr(item.answer))]
        if item.also:
            rows.append(("also correct", _some(item.also)))
        rows.append(("distractors", _some(item.distractors)))
        for name, prompt in item.corrupt.items():
            answer = item.corrupt_answers.get(name)
            rows.append((name, prompt + ("" if answer is None else f" → {answer.strip()}")))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            screen.print(Text(f"{name:>{width}}  {value}"), soft_wrap=True)
        screen.print()
    reason = why_no_reference(items, found.reference)
    said = f"none, because {reason}" if reason else found.reference.sentence
    screen.print(Text(f"reference task: {said}"), soft_wrap=True)


@tasks.command()
def export(
    task: TaskName,
    tokenizer: TokenizerName = None,
    split: Split = "test",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Take this number of items.")] = 1000,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write to this JSONL file.", show_default="standard output"),
    ] = None,
) -> None:
    """Export items as JSON lines, a file that experiments take as a task.

    With --tokenizer every item and counterfactual is tokenised, so the file is known to work with
    that model.
    """
    from circuitlapse.records.store import write_texts
    from circuitlapse.tasks.registry import get_task
    from circuitlapse.tasks.tokenization import tokenize

    if out is not None and out.is_dir():
        raise CircuitlapseError(f"{out} is a directory", fix="Name a file in it")
    found, spelling = get_task(task), load_tokenizer(tokenizer)
    items = found.items(split, n, seed, spelling)
    if spelling is not None:
        for counterfactual in (*found.counterfactuals, *found.invariance):
            tokenize(items, spelling, counterfactual)
    text = "".join(item.model_dump_json() + "\n" for item in items)
    if out is None:
        sys.stdout.write(text)
        return
    write_texts((out, text))
    typer.echo(f"{len(items)} items of {task}: {out}")


def _marked(item: "Item") -> str:
    """Put each named word in brackets, followed by the position's name."""
    text = item.prompt
    for label, (start, end) in sorted(item.spans.items(), key=lambda s: s[1], reverse=True):
        text = f"{text[:start]}[{text[start:end]}]{label}{text[end:]}"
    return text


def _some(words: tuple[str, ...]) -> str:
    more = f" and {len(words) - _MOST_SHOWN} more" if len(words) > _MOST_SHOWN else ""
    return ", ".join(map(repr, words[:_MOST_SHOWN])) + more

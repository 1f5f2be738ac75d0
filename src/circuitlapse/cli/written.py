"""``circuitlapse tasks import``: items that others wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from circuitlapse.cli.console import console_of
from circuitlapse.errors import CircuitlapseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from circuitlapse.records.items import Item
    from circuitlapse.stats.intervals import Estimate
    from circuitlapse.tasks.written.reason import Reason


_TOP_NAMES = 5

TaskName = Annotated[
    Literal["ioi2", "ioi3"], typer.Option(help="Two listed people of whom one acts, or three.")
]
Out = Annotated[Path, typer.Option(help="JSONL file for the items that can be used.")]
Rejects = Annotated[
    Path | None, typer.Option(help="JSONL file for the others, each with its reason and place.")
]
TokenizerName = Annotated[
    str | None,
    typer.Option(help="Directory or Hub name: refuse items whose names it splits into pieces."),
]


def import_(
    file: Annotated[Path, typer.Argument(help="JSON or JSONL with prompt and completion.")],
    out: Out,
    rejects: Rejects = None,
    task: TaskName = "ioi3",
    tokenizer: TokenizerName = None,
) -> None:
    """Check items that others wrote and keep those that have exactly one answer.

    Names and roles are found in the text. Every other item goes to --rejects (by default beside
    --out) with a reason. Printed are the reasons' counts, how the answers spread, and what
    trivial shortcuts score.
    """
    from circuitlapse.tasks.written.sorting import sort_items

    found = sort_items(file, task, load_tokenizer(tokenizer))
    rejects = rejects or rejects_beside(out)
    for path in (out, rejects):
        if path.resolve() == file.resolve():
            raise CircuitlapseError(
                "the file would be overwritten by its own items", got=str(path), fix="Change --out"
            )
    found.save(out, rejects)
    screen = console_of()
    n = len(found.items) + len(found.rejects)
    screen.print(f"{n} items: {len(found.items)} good, {len(found.rejects)} rejected")
    print_reasons(found.counts(), screen)
    print_items(found.items, screen)
    screen.print(f"Items: {out}\nRejects: {rejects}", highlight=False, markup=False, soft_wrap=True)


def rejects_beside(out: Path) -> Path:
    """Where the rejects go unless told otherwise."""
    return out.with_suffix(".rejects.jsonl")


def print_reasons(counts: Mapping["Reason", int], screen: Console) -> None:
    """Print how many items were rejected for each reason, if any were."""
    from circuitlapse.tasks.written.reason import MEANINGS

    if not counts:
        return
    table = Table(title="Rejected", title_justify="left")
    table.add_column("reason")
    table.add_column("items", justify="right")
    table.add_column("meaning")
    for reason, count in counts.items():
        table.add_row(reason, str(count), MEANINGS[reason])
    screen.print("", table)


def print_items(items: Sequence["Item"], screen: Console) -> None:
    """Print how the answers spread and what shortcuts score, if there are items."""
    from circuitlapse.tasks.written.tally import by_name, by_position, shortcuts

    if not items:
        return
    names, n = by_name(items), len(items)
    table = Table(title=f"Answers of {n} items, share and 95 % interval", title_justify="left")
    table.add_column("answer")
    table.add_column("share", justify="right")
    for place, share in by_position(items).items():
        table.add_row(f"{place} in the list", _share(share))
    table.add_section()
    for name, share in names[:_TOP_NAMES]:
        table.add_row(name, _share(share))
    if len(names) > _TOP_NAMES:
        table.add_row(f"{len(names) - _TOP_NAMES} more names", "")
    scores = Table(title="What shortcuts score on them, 95 % interval", title_justify="left")
    scores.add_column("shortcut")
    scores.add_column("accuracy", justify="right")
    for rule, score in shortcuts(items).items():
        scores.add_row(rule, _share(score))
    partners = Table(title="Corrupt partners", title_justify="left")
    partners.add_column("corruption")
    partners.add_column("items", justify="right")
    for key in dict.fromkeys(key for item in items for key in item.corrupt):
        partners.add_row(key, str(sum(key in item.corrupt for item in items)))
    screen.print("", table, "", scores, "", partners, "")


def _share(share: "Estimate") -> str:
    return share.text(3)


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

"""``circuitlapse calibrate``: does the verdict name what was planted?"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from circuitlapse.cli.console import console_of
from circuitlapse.cli.progress import watch
from circuitlapse.records import replacing
from circuitlapse.records.calibration import LABEL_OF, CalibratedOrganism, Calibration
from circuitlapse.records.documents import Estimate, Label
from circuitlapse.report.calibration import render_calibration


def calibrate(
    n: Annotated[int, typer.Option(min=1, help="Admitted organisms of each kind.")] = 10,
    seed_from: Annotated[
        int, typer.Option(min=0, help="First seed; the rule was made on seeds below 10.")
    ] = 100,
    out: Annotated[
        Path, typer.Option(help="Directory; a calibration found there is gone on with.")
    ] = Path("runs/calibration"),
    stress: Annotated[
        bool, typer.Option("--stress", help="Also judge locks of all weights; they do not count.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes side by side; 0 takes one per core.")
    ] = 0,
) -> None:
    """Hold the verdict against organisms whose answer was planted.

    Of each kind (formed, transformed, elicited, nothing) organisms are pretrained, fine-tuned,
    admitted by tests set beforehand and judged like any run. How often the label is the planted one
    is counted with exact intervals. Ten of each take some 5,000 seconds of processor time, by an
    estimate.
    """
    from circuitlapse.calibration import calibrate as calibrate_verdict
    from circuitlapse.calibration.calibrate import DOCUMENT, TABLE

    with watch(Console(stderr=True)) as listen:
        found = calibrate_verdict(
            out, n, seed_from=seed_from, stress=stress, workers=workers, progress=listen
        )
    print_calibration(found, console_of())
    page = write_page(found, out)
    typer.echo(f"Figures: {out / DOCUMENT}\nTable: {out / TABLE}\nPage: {page}")


def write_page(found: Calibration, out: Path) -> Path:
    """Write the calibration as a page beside its figures, and return its path."""
    page = out / "calibration.html"
    with replacing(page) as draft:
        draft.write_text(render_calibration(found), encoding="utf-8")
    return page


def print_calibration(found: Calibration, console: Console) -> None:
    """Print the confusion table, the shares that were right, and what was refused."""
    console.print(_confusion(found))
    console.print(_tallies(found))
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _confusion(found: Calibration) -> Table:
    table = Table(title="Planted, and what the verdict said", title_justify="left")
    labels = get_args(Label)
    table.add_column("planted")
    for label in labels:
        table.add_column(label, justify="right")
    for kind, counts in found.confusion.items():
        cells = [
            f"[{counts.get(label, 0)}]" if label == LABEL_OF[kind] else str(counts.get(label, 0))
            for label in labels
        ]
        table.add_row(kind, *cells)
    return table


def _tallies(found: Calibration) -> Table:
    table = Table(title="Shares with exact 95 % intervals", title_justify="left")
    for column in ("planted", "n", "right", "wrong", "undetermined"):
        table.add_column(column, justify="left" if column == "planted" else "right")
    for each in found.tallies:
        table.add_row(
            each.kind, str(each.n), _share(each.right, each.right_share),
            _share(each.wrong, each.wrong_share), str(each.undetermined),
        )  # fmt: skip
    return table


def _share(count: int, share: Estimate) -> str:
    return f"{count} ({100 * share.low:.0f} to {100 * share.high:.0f} %)"


def _lines(found: Calibration) -> Iterator[str]:
    for each in found.organisms:
        if each.scored and each.outcome != "right":
            yield f"{_named(each)}, {each.outcome}: {each.reason}"
    for each in found.organisms:
        if not each.scored and each.label is not None:
            yield f"{_named(each)}, not counted: {each.label}. {each.reason}"
        elif each.refused:
            yield f"{_named(each)}, refused: {each.refused}"
    for kind, lacking in found.missing.items():
        yield f"{lacking} of {found.n} organisms of the kind {kind} could not be had"


def _named(each: CalibratedOrganism) -> str:
    return f"{each.kind}{f' ({each.variant})' if each.variant else ''}, seed {each.seed}"

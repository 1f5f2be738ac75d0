"""``circuitlapse calibrate``: does the verdict name what was planted?

``circuitlapse plant``: two models whose answer is known, to hold a verdict against.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.console import Console
from rich.table import Table

from circuitlapse.cli.console import console_of, watch
from circuitlapse.config.presets import comparison
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.calibration import LABEL_OF, CalibratedOrganism, Calibration
from circuitlapse.records.documents import Label
from circuitlapse.records.store import replacing, write_json
from circuitlapse.report.pages.small_pages import render_calibration
from circuitlapse.stats.intervals import Estimate

if TYPE_CHECKING:
    from circuitlapse.calibration.planted import Planted


def calibrate(
    n: Annotated[int, typer.Option(min=1, help="Validated organisms of each kind.")] = 10,
    seed_from: Annotated[
        int, typer.Option(min=0, help="First seed; the rule was made on seeds below 10.")
    ] = 100,
    out: Annotated[
        Path, typer.Option(help="Directory; an unfinished calibration there is resumed.")
    ] = Path("runs/calibration"),
    stress: Annotated[
        bool, typer.Option("--stress", help="Also judge locks of all weights; they do not count.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Number of worker processes; 0 takes one per core.")
    ] = 0,
) -> None:
    """Score the labels on small models with known ground truth.

    For each kind (formed, transformed, elicited, nothing) models are trained, checked and labelled
    like any run. The table counts how often the label is right, with exact intervals. Ten of each
    take an estimated 5,000 seconds of processor time.
    """
    from circuitlapse.calibration.calibrate import DOCUMENT, TABLE
    from circuitlapse.calibration.calibrate import calibrate as calibrate_verdict

    with watch(Console(stderr=True)) as listen:
        found = calibrate_verdict(
            out, n, seed_from=seed_from, stress=stress, workers=workers, progress=listen
        )
    print_calibration(found, console_of())
    page = write_page(found, out)
    typer.echo(f"Figures: {out / DOCUMENT}\nTable: {out / TABLE}\nPage: {page}")


def write_page(found: Calibration, out: Path) -> Path:
    """Write the calibration as a page next to its figures, and return its path."""
    page = out / "calibration.html"
    with replacing(page) as draft:
        draft.write_text(render_calibration(found), encoding="utf-8")
    return page


def print_calibration(found: Calibration, console: Console) -> None:
    """Print the confusion table, the shares that were right, and what was rejected."""
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
            each.kind,
            str(each.n),
            _share(each.right, each.right_share),
            _share(each.wrong, each.wrong_share),
            str(each.undetermined),
        )
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
        elif each.why_rejected:
            yield f"{_named(each)}, rejected: {each.why_rejected}"
    for kind, lacking in found.missing.items():
        yield f"{lacking} of {found.n} organisms of the kind {kind} could not be had"


def _named(each: CalibratedOrganism) -> str:
    return f"{each.kind}{f' ({each.variant})' if each.variant else ''}, seed {each.seed}"


def plant(
    kind: Annotated[
        Literal["formed", "transformed", "elicited", "nothing"],
        typer.Argument(help="What is to be planted."),
    ],
    out: Annotated[Path, typer.Argument(help="Directory to write; new.")],
    seed: Annotated[int, typer.Option(min=0, help="Of pretraining and fine-tuning.")] = 0,
) -> None:
    """Make a base and a fine-tuned model of which it is known where the new ability came from.

    OUT/base and OUT/tuned are models, OUT/placebo a fine-tune of the base that must not teach the
    new task; planted.json says what was measured and whether the organism passed its admission
    test, and `circuitlapse run OUT/experiment.toml` compares the two.
    """
    from circuitlapse.calibration.planted import plant as plant_organism

    _refuse_existing(out)
    console = Console(stderr=True)
    found = plant_organism(kind, seed, progress=lambda what: console.print(f"making {what}"))
    write_planted(found, out)
    verdict = f"not admitted: {found.why_rejected}" if found.why_rejected else "admitted"
    typer.echo(f"{kind}, seed {seed}, {verdict}: {out}")


def write_planted(found: "Planted", out: Path) -> None:
    """Copy an organism's models from the cache, with its figures and an experiment about them.

    Args:
        found: From :func:`circuitlapse.calibration.planted.plant`.
        out: A new directory.

    Raises:
        CircuitlapseError: If it exists.
    """
    from circuitlapse.organisms.organism_cache import NEW, OLD

    _refuse_existing(out)
    about = asdict(found)
    with replacing(out) as draft:
        for name in ("base", "tuned", "placebo"):
            source = about.pop(name)
            if source is not None:
                shutil.copytree(source, draft / name)
        write_json(draft / "planted.json", about)
        experiment = comparison(out.absolute() / "base", out.absolute() / "tuned", OLD, NEW)
        (draft / "experiment.toml").write_text(to_toml(experiment), encoding="utf-8")


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise CircuitlapseError(
            "an organism needs a new directory", got=str(out), fix="Give another one, or remove it"
        )

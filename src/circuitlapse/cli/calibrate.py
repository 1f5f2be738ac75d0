"""``circuitlapse calibrate`` and ``make-organism``: labels compared with known ground truth."""

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
    from circuitlapse.calibration.ground_truth import KnownOrganism


def calibrate(
    n: Annotated[int, typer.Option(min=1, help="Make this number of models of each kind.")] = 10,
    seed_from: Annotated[
        int,
        typer.Option(min=0, help="Start at this seed; the rule was developed on seeds below 10."),
    ] = 100,
    out: Annotated[
        Path, typer.Option(help="Write to this directory, or resume the calibration there.")
    ] = Path("runs/calibration"),
    stress: Annotated[
        bool,
        typer.Option("--stress", help="Add stress cases, which are not scored."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Set the number of worker processes (0: one per core).")
    ] = 0,
) -> None:
    """Score the labels on small models with known ground truth.

    For each kind (formed, transformed, elicited, nothing) models are trained, checked and labelled
    like any run. The table counts how often the label is right, with exact intervals. Ten models of
    each kind take an estimated 5,000 seconds of processor time.
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
    """Write the calibration as a page, and return its path."""
    page = out / "calibration.html"
    with replacing(page) as draft:
        draft.write_text(render_calibration(found), encoding="utf-8")
    return page


def print_calibration(found: Calibration, console: Console) -> None:
    """Print the confusion matrix, the shares of correct labels, and the rejected models."""
    console.print(_confusion(found))
    console.print(_tallies(found))
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _confusion(found: Calibration) -> Table:
    table = Table(title="Ground truth and label", title_justify="left")
    labels = get_args(Label)
    table.add_column("ground truth")
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
    for column in ("ground truth", "n", "correct", "wrong", "undetermined"):
        table.add_column(column, justify="left" if column == "ground truth" else "right")
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
        yield f"{lacking} of {found.n} models of the kind {kind} could not be made"


def _named(each: CalibratedOrganism) -> str:
    return f"{each.kind}{f' ({each.variant})' if each.variant else ''}, seed {each.seed}"


def make_organism(
    kind: Annotated[
        Literal["formed", "transformed", "elicited", "nothing"],
        typer.Argument(help="Known cause of the new ability."),
    ],
    out: Annotated[Path, typer.Argument(help="New directory to write to.")],
    seed: Annotated[int, typer.Option(min=0, help="Pretrain and fine-tune with this seed.")] = 0,
) -> None:
    """Make a base and a fine-tuned model with known ground truth.

    Writes the models OUT/base and OUT/tuned, and OUT/placebo, a fine-tune that cannot teach the new
    task. ground_truth.json has the figures and the result of the validation check. Compare the two
    with `circuitlapse run OUT/experiment.toml`.
    """
    from circuitlapse.calibration import ground_truth

    _check_new(out)
    console = Console(stderr=True)
    found = ground_truth.make_organism(
        kind, seed, progress=lambda what: console.print(f"making {what}")
    )
    write_organism(found, out)
    verdict = f"rejected: {found.why_rejected}" if found.why_rejected else "validated"
    typer.echo(f"{kind}, seed {seed}, {verdict}: {out}")


def write_organism(found: "KnownOrganism", out: Path) -> None:
    """Copy an organism's models from the cache, with its figures and an experiment about them.

    Raises:
        CircuitlapseError: If the directory exists.
    """
    from circuitlapse.organisms.organism_cache import NEW, OLD

    _check_new(out)
    about = asdict(found)
    with replacing(out) as draft:
        for name in ("base", "tuned", "placebo"):
            source = about.pop(name)
            if source is not None:
                shutil.copytree(source, draft / name)
        write_json(draft / "ground_truth.json", about)
        experiment = comparison(out.absolute() / "base", out.absolute() / "tuned", OLD, NEW)
        (draft / "experiment.toml").write_text(to_toml(experiment), encoding="utf-8")


def _check_new(out: Path) -> None:
    if out.exists():
        raise CircuitlapseError(
            "the directory to write exists already", got=str(out), fix="Name a new one"
        )

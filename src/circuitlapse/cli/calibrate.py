"""``circuitlapse calibrate`` and ``make-organism``: labels compared with known ground truth."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from circuitlapse.cli.console import console_of, watch
from circuitlapse.config.presets import comparison
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.calibration import OUTCOMES, Calibration, Tally, known_errors
from circuitlapse.records.store import replacing
from circuitlapse.report.pages.small_pages import render_calibration


def calibrate(
    out: Annotated[
        Path, typer.Option(help="Write to this directory, or resume the calibration there.")
    ] = Path("runs/calibration"),
    rows: Annotated[
        list[int] | None, typer.Option(help="Score only this row of the table (repeatable).")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Make candidates again that this package's record has.")
    ] = False,
) -> None:
    """Score the labels on small models with known ground truth.

    Models are made by eleven mechanisms, checked and labelled like any run. The table counts how
    often the label is right. All 96 take an estimated 3 to 4 hours of one core; the record is
    written after each, and the same command resumes.
    """
    from circuitlapse.calibration.calibrate import DOCUMENT
    from circuitlapse.calibration.calibrate import calibrate as calibrate_verdict

    with watch(Console(stderr=True)) as listen:
        found = calibrate_verdict(out, rows=rows or (), again=again, progress=listen)
    print_calibration(found, console_of())
    page = write_page(found, out)
    typer.echo(f"Record: {out / DOCUMENT}\nPage: {page}")


def write_page(found: Calibration, out: Path) -> Path:
    """Write the calibration as a page, and return its path."""
    page = out / "calibration.html"
    with replacing(page) as draft:
        draft.write_text(render_calibration(found), encoding="utf-8")
    return page


def print_calibration(found: Calibration, console: Console) -> None:
    """Print the counts by mechanism, and what was not right."""
    console.print(_tallies(found))
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _tallies(found: Calibration) -> Table:
    table = Table(title=f"Scored {len(found.candidates)} of {found.planned}", title_justify="left")
    for column in ("mechanism", "of", *OUTCOMES, "refused", "without bits: right", "wrong"):
        table.add_column(column, justify="left" if column == "mechanism" else "right")
    rows = [*found.tallies(), found.total()]
    without = [*found.tallies(with_bits=False), found.total(with_bits=False)]
    for each, other in zip(rows, without, strict=True):
        table.add_row(*_cells(each), str(other.right), str(other.wrong))
    return table


def _cells(each: Tally) -> list[str]:
    counts = [str(getattr(each, outcome)) for outcome in OUTCOMES]
    return [each.says, str(each.planned), *counts, str(each.refused)]


def _lines(found: Calibration) -> Iterator[str]:
    for each in found.candidates:
        if each.refused:
            yield f"{each.name}, refused: {each.refused}"
        elif each.answer is not None and each.answer.outcome != "right":
            yield f"{each.name}, {each.answer.outcome}: {each.answer.label}. {each.answer.reason}"
    yield f"In short: {known_errors(found.marks, found)}."


def make_organism(
    mechanism: Annotated[str, typer.Argument(help="How the new ability comes about.")],
    out: Annotated[Path, typer.Argument(help="New directory to write to.")],
    seed: Annotated[int, typer.Option(min=0, help="Pretrain and fine-tune with this seed.")] = 0,
    architecture: Annotated[str, typer.Option(help="Architecture of the base.")] = "gpt2-8",
) -> None:
    """Make a base and a fine-tuned model with known ground truth.

    Mechanisms: old_heads, erased_heads, upper_blank_heads, lower_blank_heads, blank_head_lock,
    layer_lock, norm_lock, first_named, second_actor, placebo, head_adapters. Architectures: gpt2-8,
    gpt2-16, gpt2-32, llama, neox. Writes the models OUT/base and OUT/tuned; ground_truth.json has
    the figures and the result of the check. Compare the two with `circuitlapse run
    OUT/experiment.toml`.
    """
    from circuitlapse.calibration.candidate import make_one
    from circuitlapse.calibration.checks import why_refused
    from circuitlapse.calibration.mechanisms import OLD, Made
    from circuitlapse.calibration.scored_rows import candidate_of

    if out.exists():
        raise CircuitlapseError(
            "the directory to write exists already", got=str(out), fix="Name a new one"
        )
    candidate = candidate_of(mechanism, architecture, seed)
    Console(stderr=True).print(f"making {candidate.name}")
    with tempfile.TemporaryDirectory() as work:
        made: Made = make_one(candidate, Path(work))
        refused = why_refused(candidate.row.mechanism, made.figures)
        about = {
            "mechanism": mechanism,
            "architecture": architecture,
            "seed": seed,
            "right_label": candidate.row.truth,
            "trained": made.trained,
            "figures": made.figures,
            "refused": refused,
        }
        with replacing(out) as draft:
            for name in ("base", "tuned"):
                shutil.copytree(getattr(made, name), draft / name)
            text = json.dumps(about, indent=1) + "\n"
            (draft / "ground_truth.json").write_text(text, encoding="utf-8")
            where = out.absolute()
            experiment = comparison(where / "base", where / "tuned", OLD, made.new.task.name)
            (draft / "experiment.toml").write_text(to_toml(experiment), encoding="utf-8")
    said = f"refused: {refused}" if refused else "its check holds"
    typer.echo(f"{mechanism}, seed {seed}, {said}: {out}")

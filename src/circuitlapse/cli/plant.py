"""``circuitlapse plant``: two models whose answer is known, to hold a verdict against."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from circuitlapse.config import comparison, to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records import replacing
from circuitlapse.records.store import write_json

if TYPE_CHECKING:
    from circuitlapse.calibration import Planted


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
    from circuitlapse.calibration import plant as plant_organism

    _refuse_existing(out)
    console = Console(stderr=True)
    found = plant_organism(kind, seed, progress=lambda what: console.print(f"making {what}"))
    write_planted(found, out)
    verdict = f"not admitted: {found.refused}" if found.refused else "admitted"
    typer.echo(f"{kind}, seed {seed}, {verdict}: {out}")


def write_planted(found: "Planted", out: Path) -> None:
    """Copy an organism's models from the cache, with its figures and an experiment about them.

    Args:
        found: From :func:`circuitlapse.calibration.plant`.
        out: A new directory.

    Raises:
        CircuitlapseError: If it exists.
    """
    from circuitlapse.training.nursery import NEW, OLD

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

"""``circuitlapse export RUN --gif …``: the circuit map over time, for slides and papers."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from circuitlapse.api import load_run
from circuitlapse.cli.progress import counting
from circuitlapse.errors import CircuitlapseError


def export_map(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    gif: Annotated[Path | None, typer.Option(help="Write one film of all checkpoints.")] = None,
    png: Annotated[Path | None, typer.Option(help="Directory for a PNG each.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Directory for an SVG each.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Fine-tuning seed; by default the first one.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="One of a grid's recipes.")] = None,
    corruption: Annotated[
        str | None, typer.Option(help="Family or variant; by default the run's first family.")
    ] = None,
    edges: Annotated[int, typer.Option(min=0, help="Edges on each map.")] = 40,
) -> None:
    """Draw both circuits at every checkpoint, on scales that are the same in every picture.

    The word map may be left out: circuitlapse export RUN --gif OUT.gif
    """
    from circuitlapse.report import read_run
    from circuitlapse.report.film import frames, write_gif, write_pictures

    if not (gif or png or svg):
        raise CircuitlapseError(
            "nothing was asked for", fix="Pass --gif FILE, --png DIRECTORY or --svg DIRECTORY"
        )
    for directory in (png, svg):
        if directory is not None and directory.exists() and not directory.is_dir():
            raise CircuitlapseError(f"{directory} is not a directory", fix="Name another one")
    if gif is not None and gif.is_dir():
        raise CircuitlapseError(f"{gif} is a directory", fix="Name a file, such as map.gif")
    opened = load_run(run, recipe)
    if opened.recipe is None:
        raise CircuitlapseError(
            "the run has several recipes, each with its own map",
            fix=f"Choose one with --recipe: {', '.join(opened.recipes)}",
        )
    records = read_run(run, recipe=opened.recipe)

    def pictures():
        return frames(records, seed=seed, corruption=corruption, edges=edges)

    with counting(Console(stderr=True), "pictures") as advance:
        for kind, directory in (("svg", svg), ("png", png)):
            if directory is not None:
                write_pictures(pictures(), directory, kind, advance)
        if gif is not None:
            write_gif(pictures(), gif, advance)
    for path in (svg, png, gif):
        if path is not None:
            typer.echo(str(path))

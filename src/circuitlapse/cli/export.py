"""``circuitlapse export``: pictures of a run's map, and files for other tools."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

from circuitlapse.api.finished_run import Run, load_run
from circuitlapse.cli.console import counting
from circuitlapse.errors import CircuitlapseError


class _Export(TyperGroup):
    """Reads ``export RUN --gif OUT.gif`` as ``export map RUN --gif OUT.gif``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the command ``map`` before a run."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["map", *args]
        return super().parse_args(ctx, args)


export = typer.Typer(
    cls=_Export,
    no_args_is_help=True,
    help="Export a run: pictures of its circuit map, or files for other tools.",
)


RunPath = Annotated[Path, typer.Argument(help="Directory of a finished run.")]
Step = Annotated[
    int | None, typer.Option(help="Export the checkpoint of this step.", show_default="the last")
]
Recipe = Annotated[str | None, typer.Option(help="Choose one of a grid's recipes.")]
Seed = Annotated[
    int | None, typer.Option(help="Choose this fine-tuning seed.", show_default="the first")
]
Counterfactual = Annotated[
    str | None,
    typer.Option(help="Choose this counterfactual type or variant.", show_default="the first"),
]


@export.command("map")
def export_map(
    run: RunPath,
    gif: Annotated[
        Path | None, typer.Option(help="Write an animation of all checkpoints to this file.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Write one PNG per checkpoint to this directory.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Write one SVG per checkpoint to this directory.")
    ] = None,
    seed: Seed = None,
    recipe: Recipe = None,
    counterfactual: Counterfactual = None,
    edges: Annotated[int, typer.Option(min=0, help="Draw this number of edges on each map.")] = 40,
) -> None:
    """Draw both circuits at every checkpoint, on one scale.

    The word map may be left out: circuitlapse export RUN --gif OUT.gif
    """
    from circuitlapse.report.pages.film import frames, write_gif, write_pictures
    from circuitlapse.report.series.run_records import read_run

    if not (gif or png or svg):
        raise CircuitlapseError(
            "there is no format to export",
            fix="Pass --gif FILE, --png DIRECTORY or --svg DIRECTORY",
        )
    for directory in (png, svg):
        if directory is not None and directory.exists() and not directory.is_dir():
            raise CircuitlapseError(f"{directory} is not a directory", fix="Name a directory")
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
        return frames(records, seed=seed, counterfactual=counterfactual, edges=edges)

    with counting(Console(stderr=True), "pictures") as advance:
        for kind, directory in (("svg", svg), ("png", png)):
            if directory is not None:
                write_pictures(pictures(), directory, kind, advance)
        if gif is not None:
            write_gif(pictures(), gif, advance)
    for path in (svg, png, gif):
        if path is not None:
            typer.echo(str(path))


@export.command()
def circuit(
    run: RunPath,
    out: Annotated[Path, typer.Argument(help="File to write, .json or .pt.")],
    task: Annotated[
        str | None, typer.Option(help="Export this task.", show_default="the new task")
    ] = None,
    step: Step = None,
    seed: Seed = None,
    recipe: Recipe = None,
    counterfactual: Counterfactual = None,
    edges: Annotated[
        int | None, typer.Option(min=0, help="Also export the circuit of the top N edges.")
    ] = None,
    by: Annotated[
        Literal["absolute", "signed"],
        typer.Option(help="Rank edges by absolute or by signed score."),
    ] = "absolute",
) -> None:
    """Export edge scores of a checkpoint in the format of MIB's circuit track and EAP-IG.

    The format has no scores for heads that share keys and values. For such a model pass --edges;
    only the circuit is written.
    """
    from circuitlapse.attribution.scores import Scores
    from circuitlapse.circuits.mib import export_circuit

    opened = load_run(run, recipe)
    settings = opened.experiment
    step = settings.steps()[-1] if step is None else step
    task = task or settings.tasks.new
    model = opened.model(step, seed, device="cpu")
    mean, halves, n = _edges(
        opened, step, task, seed, counterfactual or settings.measure.counterfactuals[0]
    )
    scores = Scores(model.graph, mean, halves, n)
    chosen = None if edges is None else scores.top(n_edges=edges, by=by)
    shared = model.graph.n_kv_heads != model.graph.n_heads
    if shared and chosen is None:
        raise CircuitlapseError(
            "MIB's format has no scores for heads that share keys and values",
            got=f"{model.graph.n_heads} heads with {model.graph.n_kv_heads} keys and values",
            fix="Pass --edges to export a circuit, such as --edges 200",
        )
    path = export_circuit(out, model, scores=None if shared else scores, circuit=chosen)
    typer.echo(f"{task} at step {step}: {path}")


@export.command()
def checkpoint(
    run: RunPath,
    out: Annotated[Path, typer.Argument(help="New or empty directory to write to.")],
    step: Step = None,
    seed: Seed = None,
    recipe: Recipe = None,
    vocab_size: Annotated[
        int | None,
        typer.Option(min=1, help="Keep this number of tokens.", show_default="the official one"),
    ] = None,
) -> None:
    """Export a checkpoint and its tokenizer for TransformerLens."""
    from circuitlapse.models.files.transformerlens import export_transformerlens

    opened = load_run(run, recipe)
    step = opened.experiment.steps()[-1] if step is None else step
    path = export_transformerlens(opened.model(step, seed, device="cpu"), out, vocab_size)
    typer.echo(f"step {step}: {path}")


def _edges(run: Run, step: int, task: str, seed: int | None, counterfactual: str):
    """Mean scores, those of the halves, and the number of prompts; averaged over variants."""
    import torch

    from circuitlapse.tasks.registry import get_task

    if task not in (run.experiment.tasks.old, run.experiment.tasks.new):
        raise CircuitlapseError(
            "the run has no such task",
            got=task,
            fix=f"Use {run.experiment.tasks.old} or {run.experiment.tasks.new}",
        )
    arrays = run.scores(step, task, seed)
    variants = get_task(task).families.get(counterfactual, (counterfactual,))
    if any(f"edges.{variant}" not in arrays for variant in variants):
        known = sorted(name.removeprefix("edges.") for name in arrays if name.startswith("edges."))
        measured = run.experiment.measure.counterfactuals
        raise CircuitlapseError(
            "the run has no scores for this counterfactual",
            got=counterfactual,
            fix=f"Use one of {', '.join(dict.fromkeys([*measured, *known]))}",
        )
    mean, halves = (
        torch.stack([torch.from_numpy(arrays[f"{name}.{variant}"]) for variant in variants]).mean(0)
        for name in ("edges", "halves")
    )
    return mean, halves, len(arrays[f"clean.{variants[0]}"])

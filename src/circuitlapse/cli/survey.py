"""``circuitlapse survey``: which tasks do these models by themselves?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from circuitlapse.cli.console import console_of, watch
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import replacing
from circuitlapse.records.survey import PROMPTS, ModelSurvey, Survey
from circuitlapse.report.pages.small_pages import render_survey
from circuitlapse.report.series.grid import estimate, number

_PAIRS = 6  # printed; the files have all


def survey(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Directories, Hub names, or organisms such as organism:default, pretrained where "
            "not cached."
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks, such as ioi2,ioi3, or files of your own; may be repeated.",
            show_default="all",
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts of each task.")] = PROMPTS,
    seed: Annotated[int, typer.Option(min=0, help="Draws other prompts.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything as JSON too.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page like the report too.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 and so on.")] = "auto",
) -> None:
    """See which tasks models do by themselves, and which pairs are worth an experiment.

    Marks every task mastered, partial or failed, and names pairs of an old task that is mastered
    and a new one that is not, the nearest in form first. A model that cannot be loaded is listed
    with the reason; the exit status is then 2.
    """
    for file in (json, html):
        if file is not None and file.is_dir():
            raise CircuitlapseError(f"{file} is a directory", fix="Name a file in it")
    from circuitlapse.api.survey import survey as survey_models

    names = None if tasks is None else [name for each in tasks for name in each.split(",") if name]
    with watch(Console(stderr=True)) as listen:
        found = survey_models(
            models, names, prompts=prompts, seed=seed, device=device, progress=listen
        )
    if json is not None:
        with replacing(json) as draft:
            draft.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if html is not None:
        with replacing(html) as draft:
            draft.write_text(render_survey(found), encoding="utf-8")
    print_survey(found, console_of())
    for what, file in (("Figures", json), ("Page", html)):
        if file is not None:
            typer.echo(f"{what}: {file}")
    if found.left_out:
        raise typer.Exit(2)


def print_survey(found: Survey, console: Console) -> None:
    """Print a block for each model, what all have in common, and what the marks mean."""
    for model in found.models:
        console.print(_figures(model))
        _say(console, _pairs(model))
        for each in model.left_out:
            _say(console, f"Not asked, {each.name}: {each.reason}")
        console.print()
    if len(found.models) > 1:
        console.print(_masters(found), "")
    for each in found.left_out:
        _say(console, f"Left out, {each.name}: {each.reason}")
    _say(console, found.criteria)


def _figures(model: ModelSurvey) -> Table:
    title = f"{model.model}: {model.parameters:,} parameters"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("task")
    table.add_column("mark")
    for column in ("among candidates", "chance", "accuracy", "logit difference"):
        table.add_column(column, justify="right")
    for row in model.tasks:
        figures = (
            estimate(row.candidate_accuracy),
            number(row.chance),
            estimate(row.accuracy),
            estimate(row.logit_diff),
        )
        table.add_row(Text(row.task), row.mark, *map(Text, figures))
    return table


def _pairs(model: ModelSurvey) -> str:
    if not model.pairs:
        return "No pair of these tasks is worth an experiment."
    lines = [
        f"  {pair.old} → {pair.new}  (distance {number(pair.distance)}; {', '.join(pair.families)})"
        for pair in model.pairs[:_PAIRS]
    ]
    if len(model.pairs) > _PAIRS:
        lines.append(f"  and {len(model.pairs) - _PAIRS} more, which --json and --html have")
    return "\n".join(["Pairs worth an experiment, nearest in form first:", *lines])


def _masters(found: Survey) -> Table:
    table = Table(title="Which model masters what, by accuracy among candidates")
    table.title_justify = "left"
    table.add_column("task")
    for model in found.models:
        table.add_column(Text(model.model))
    table.add_column("smallest that masters it")
    for task, master in found.smallest.items():
        figures = [model.figures(task) for model in found.models]
        cells = [
            f"{each.mark} {number(each.candidate_accuracy.value)}" if each else "not asked"
            for each in figures
        ]
        table.add_row(Text(task), *cells, Text(master or "none"))
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

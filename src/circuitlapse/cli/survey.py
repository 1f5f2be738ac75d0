"""``circuitlapse survey``: tests of models on tasks without fine-tuning."""

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

_PAIRS = 6  # that are printed; the files have all


def survey(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Directories, Hub names, or organisms such as organism:default (pretrained if "
            "not cached)."
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Test these tasks, such as ioi2,ioi3, or files of your own; may be repeated.",
            show_default="all",
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=2, help="Use this number of held-out prompts per task.")
    ] = PROMPTS,
    seed: Annotated[int, typer.Option(min=0, help="Draw prompts with this seed.")] = 0,
    json: Annotated[
        Path | None, typer.Option(help="Also write all results to this JSON file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page like the report to this file.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="Compute on auto, cpu, cuda, cuda:1 and so on.")
    ] = "auto",
) -> None:
    """Test which tasks a model solves without fine-tuning, and suggest old/new task pairs.

    Grades every task as mastered, partial or failed. Suggests pairs of a mastered old task and a
    new task that is not mastered, the most similar first. A model that cannot be loaded is listed
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
    """Print the grades and pairs of each model, a comparison, and the meaning of the grades."""
    for model in found.models:
        console.print(_figures(model))
        _say(console, _pairs(model))
        for each in model.left_out:
            _say(console, f"Not tested: {each.name}: {each.reason}")
        console.print()
    if len(found.models) > 1:
        console.print(_masters(found), "")
    for each in found.left_out:
        _say(console, f"Left out: {each.name}: {each.reason}")
    _say(console, found.criteria)


def _figures(model: ModelSurvey) -> Table:
    title = f"{model.model}: {model.parameters:,} parameters"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("task")
    table.add_column("grade")
    for column in ("candidate accuracy", "chance", "accuracy", "logit difference"):
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
        return "No pair of these tasks suits an experiment."
    lines = [
        f"  {pair.old} → {pair.new}  (distance {number(pair.distance)}; {', '.join(pair.families)})"
        for pair in model.pairs[:_PAIRS]
    ]
    if len(model.pairs) > _PAIRS:
        lines.append(f"  and {len(model.pairs) - _PAIRS} more with --json or --html")
    return "\n".join(["Suggested old/new task pairs, the most similar first:", *lines])


def _masters(found: Survey) -> Table:
    table = Table(title="Grades of all models, with the accuracy over the candidates")
    table.title_justify = "left"
    table.add_column("task")
    for model in found.models:
        table.add_column(Text(model.model))
    table.add_column("smallest model that masters it")
    for task, master in found.smallest.items():
        figures = [model.figures(task) for model in found.models]
        cells = [
            f"{each.mark} {number(each.candidate_accuracy.value)}" if each else "not tested"
            for each in figures
        ]
        table.add_row(Text(task), *cells, Text(master or "none"))
    return table


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

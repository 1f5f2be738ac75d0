"""``circuitlapse tasks``: the prompts that everything is measured on."""

import typer

from circuitlapse.cli.writing import write
from circuitlapse.cli.written import import_

tasks = typer.Typer(
    no_args_is_help=True, help="Prompts: import what others wrote, have some written."
)
tasks.command("import")(import_)
tasks.command("write")(write)

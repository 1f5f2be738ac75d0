"""``circuitlapse tasks``: the prompts that everything is measured on."""

import typer

from circuitlapse.cli.written import import_

tasks = typer.Typer(no_args_is_help=True, help="Prompts: import what others wrote.")
tasks.command("import")(import_)

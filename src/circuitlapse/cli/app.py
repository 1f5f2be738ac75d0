"""Commands and their options. Exit status: 0 done, 2 bad input or usage, 1 anything else."""

import errno
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from rich.console import Console

import circuitlapse
from circuitlapse.api.finished_run import load_run
from circuitlapse.api.start import comparison_out, run_experiment
from circuitlapse.cli.calibrate import calibrate, plant
from circuitlapse.cli.checkpoints import experiment_from, run_name
from circuitlapse.cli.console import console_of, watch
from circuitlapse.cli.export import export
from circuitlapse.cli.show import show, try_prompt
from circuitlapse.cli.summary import print_estimates, print_summary
from circuitlapse.cli.survey import survey
from circuitlapse.cli.tasks import tasks
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import comparison, demo_experiment
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import DRAFT

_FULL = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="circuitlapse",
    help="A time-lapse of the circuits in a language model while it is fine-tuned: was the new "
    "ability elicited, was an old circuit transformed, or was a new one formed?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(export, name="export")
app.add_typer(tasks, name="tasks")
app.command()(calibrate)
app.command()(plant)
app.command()(show)
app.command()(survey)
app.command("try")(try_prompt)

Out = Annotated[
    Path | None,
    typer.Option(help="Directory of the run; an unfinished run there is resumed."),
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Number of worker processes; 0 takes one per core.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 and so on.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="List the jobs with projected time, memory and disk; do none."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"circuitlapse {circuitlapse.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    organism: Annotated[
        Literal["default", "natural"],
        typer.Option(help="Recipe of the model organism that is fine-tuned."),
    ] = "default",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the organism's pretraining.")] = 0,
    pretrain: Annotated[
        bool,
        typer.Option(
            "--pretrain",
            help="Pretrain the organism here; the one of recipe `default` and seed 0 is shipped.",
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="With the control fine-tunes and several seeds of every placebo."
        ),
    ] = False,
    out: Out = None,
    workers: Workers = None,
    device: Device = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the demo's experiment file and stop.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Run everything on a small model that comes with the package: no download, no GPU.

    A model organism that knows two-name indirect object identification is fine-tuned on three
    names, and its circuits for both are compared at every checkpoint. Other recipes and seeds are
    pretrained first, in about a minute, and kept in the cache.
    """
    experiment = demo_experiment(organism, seed, full=full, pretrain=pretrain)
    if print_config:
        typer.echo(to_toml(experiment), nl=False)
        return
    name = "demo" if organism == "default" else f"demo-{organism}"
    name += ("-full" if full else "") + ("-pretrain" if pretrain else "")
    name += f"-seed-{seed}" if seed else ""
    _run(experiment, out or Path("runs") / name, workers, device, dry_run)


@app.command()
def run(
    experiment: Annotated[
        Path | None,
        typer.Argument(help="Experiment file; `circuitlapse demo --print-config` writes one."),
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of a file: checkpoints that you have, as a directory, a quoted pattern "
            "or OWNER/NAME@REVISION; may be repeated."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The base; without it, the first checkpoint is.")
    ] = None,
    old: Annotated[str | None, typer.Option(help="The old task.", show_default="ioi2")] = None,
    new: Annotated[str | None, typer.Option(help="The new task.", show_default="ioi3")] = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Prompts for behaviour, circuits, groups and grafts alike.",
            show_default="1024, 96, 256 and 512",
        ),
    ] = None,
    counterfactual: Annotated[
        list[str] | None,
        typer.Option(help="Counterfactual family; may be repeated.", show_default="subject, names"),
    ] = None,
    patch_at: Annotated[
        str | None,
        typer.Option(
            help="Checkpoints that are patched exactly too: every, ends (base and last), or how "
            "many.",
            show_default="every",
        ),
    ] = None,
    out: Out = None,
    workers: Workers = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Run an experiment from its TOML file, or on checkpoints that you have.

    Resumes an interrupted run. Without --out it goes to runs/NAME, where NAME is
    the file's name without its ending, or the directory that holds the checkpoints.
    """
    patterns = checkpoints or []
    described = experiment_from(
        experiment,
        patterns,
        base=base,
        old=old,
        new=new,
        prompts=prompts,
        counterfactuals=counterfactual,
        patch_at=patch_at,
    )
    name = run_name(patterns) if experiment is None else experiment.stem
    _run(described, out or Path("runs") / name, workers, device, dry_run)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="Directory or Hub name of the base.")],
    tuned: Annotated[str, typer.Argument(help="Directory or Hub name of the fine-tuned model.")],
    old: Annotated[str, typer.Option(help="The old task, which the base does.")] = "ioi2",
    new: Annotated[str, typer.Option(help="The new task.")] = "ioi3",
    prompts: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Prompts for behaviour, circuits, groups and grafts alike.",
            show_default="1024, 96, 256 and 512",
        ),
    ] = None,
    out: Out = None,
    workers: Workers = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Compare two models, without checkpoints in between, and print the verdict.

    It is a run like any other, with two steps, and leaves the same directory; without --out in
    runs/compare-NAME, where NAME is the fine-tuned model's.
    """
    described = comparison(base, tuned, old, new, prompts)
    _run(described, out or comparison_out(tuned), workers, device, dry_run)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
) -> None:
    """Build a run's report.html again from its tables. Needs neither the models nor torch."""
    from circuitlapse.report.pages.page import build_report

    for recipe in load_run(run).recipes:
        typer.echo(f"Report: {build_report(run, recipe=recipe)}")


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="gpt2, or the directory of a model of its shape: 12 x 12 heads.")
    ],
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to test the heads on.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Draws prompts and random tokens.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 and so on.")] = "auto",
) -> None:
    """Look for the published heads of indirect object identification in GPT-2 small.

    Each head is tested for its role, and a table of hits and misses is printed: a known answer for
    this software on your machine. A miss is a finding, so that the exit status is 0 either way.
    """
    from circuitlapse.cli.check import check_published

    check_published(model, prompts, seed, device, console_of())


def _run(
    experiment: Experiment, out: Path, workers: int | None, device: str | None, dry_run: bool
) -> None:
    changes = {"workers": workers, "device": device}
    compute = experiment.compute.model_copy(
        update={key: value for key, value in changes.items() if value is not None}
    )
    experiment = experiment.model_copy(update={"compute": compute})
    console = console_of()
    if dry_run:
        from circuitlapse.pipeline.run.estimate import estimates

        print_estimates(estimates(experiment, out), console)
        return
    with watch(Console(stderr=True)) as listen:
        finished = run_experiment(experiment, out, listen)
    print_summary(finished, console)


def main() -> None:
    """Run the command line; a mistake of the user's ends with one message and status 2."""
    try:
        app()
    except CircuitlapseError as error:
        _end(error)
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:  # of no file of the user's
            raise
        _end(_refused(error))


def _refused(error: OSError) -> CircuitlapseError:
    """Say what the system refused; a draft is named as the file that it was to become."""
    where = "this place" if error.filename is None else str(error.filename)
    return CircuitlapseError(
        f"{re.sub(DRAFT, '', where)} cannot be read or written",
        got=error.strerror,
        fix="Name another place, or see to its permissions and to the space on its disk",
    )


def _end(error: CircuitlapseError) -> NoReturn:
    typer.echo(f"circuitlapse: {error}", err=True)
    sys.exit(2)

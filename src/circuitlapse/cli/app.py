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
from circuitlapse.cli.calibrate import calibrate, make_organism
from circuitlapse.cli.checkpoints import experiment_from, run_name
from circuitlapse.cli.console import console_of, watch
from circuitlapse.cli.export import export
from circuitlapse.cli.show import show, try_prompt
from circuitlapse.cli.summary import print_estimates, print_summary
from circuitlapse.cli.survey import survey
from circuitlapse.cli.tasks import tasks
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import comparison, demo_experiment, without_bits
from circuitlapse.config.toml import to_toml
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import DRAFT

_FULL = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="circuitlapse",
    help="Find out how fine-tuning gave a language model a new ability: was it elicited, was an "
    "old circuit transformed, or was a new one formed?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(export, name="export")
app.add_typer(tasks, name="tasks")
app.command()(calibrate)
app.command()(make_organism)
app.command()(show)
app.command()(survey)
app.command("try")(try_prompt)

Out = Annotated[
    Path | None,
    typer.Option(help="Write the run to this directory, or resume the run there."),
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Set the number of worker processes (0: one per core).")
]
Device = Annotated[str | None, typer.Option(help="Compute on auto, cpu, cuda, cuda:1 and so on.")]
Prompts = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="Use this number of prompts for each measurement.",
        show_default="1024, 96, 256, 512 and 128",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="List the jobs with projected time, memory and disk, and stop."),
]

NoBits = Annotated[
    bool, typer.Option("--no-bits", help="Leave out the trainings that measure bits_ratio.")
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
        typer.Option(help="Fine-tune the model organism of this recipe."),
    ] = "default",
    seed: Annotated[
        int, typer.Option(min=0, help="Use the organism of this pretraining seed.")
    ] = 0,
    pretrain: Annotated[
        bool,
        typer.Option(
            "--pretrain",
            help="Pretrain the organism here, also if it is shipped with the package.",
        ),
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Add the control fine-tunes and several seeds of every placebo."
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
    """Run all analyses on a small shipped model, without a download or a GPU.

    The model organism solves two-name indirect object identification and is fine-tuned on three
    names. Its circuits for both tasks are compared at every checkpoint. Organisms of other recipes
    and seeds are pretrained first, in about a minute, and cached. Results are written to --out
    (default: runs/demo, with the options in the name).
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
        typer.Argument(help="Experiment file, as `circuitlapse demo --print-config` writes it."),
    ] = None,
    checkpoints: Annotated[
        list[str] | None,
        typer.Option(
            help="Analyse these checkpoints instead of training: a directory, a quoted pattern or "
            "OWNER/NAME@REVISION; may be repeated."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Use this base model.", show_default="the first checkpoint"),
    ] = None,
    old: Annotated[str | None, typer.Option(help="Set the old task.", show_default="ioi2")] = None,
    new: Annotated[str | None, typer.Option(help="Set the new task.", show_default="ioi3")] = None,
    prompts: Prompts = None,
    counterfactual: Annotated[
        list[str] | None,
        typer.Option(
            help="Use this counterfactual type; may be repeated.", show_default="subject, names"
        ),
    ] = None,
    patch_at: Annotated[
        str | None,
        typer.Option(
            help="Add activation patching at these checkpoints: every, ends (base and last), or a "
            "number of them.",
            show_default="every",
        ),
    ] = None,
    no_bits: NoBits = False,
    out: Out = None,
    workers: Workers = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Run an experiment from its TOML file, or on existing checkpoints.

    Resumes an interrupted run. Results are written to --out (default: runs/NAME, with NAME from the
    experiment file or the checkpoint directory).
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
    described = without_bits(described) if no_bits else described
    name = run_name(patterns) if experiment is None else experiment.stem
    _run(described, out or Path("runs") / name, workers, device, dry_run)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="Directory or Hub name of the base model.")],
    tuned: Annotated[str, typer.Argument(help="Directory or Hub name of the fine-tuned model.")],
    old: Annotated[str, typer.Option(help="Set the old task, which the base solves.")] = "ioi2",
    new: Annotated[str, typer.Option(help="Set the new task.")] = "ioi3",
    prompts: Prompts = None,
    no_bits: NoBits = False,
    out: Out = None,
    workers: Workers = None,
    device: Device = None,
    dry_run: DryRun = False,
) -> None:
    """Compare a base and its fine-tuned model without checkpoints in between.

    Prints the verdict and writes the same files as a run, to --out (default: runs/compare-NAME,
    with NAME from the fine-tuned model).
    """
    described = comparison(base, tuned, old, new, prompts, bits=not no_bits)
    _run(described, out or comparison_out(tuned), workers, device, dry_run)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
) -> None:
    """Build the report of a run again from its tables, without the models."""
    from circuitlapse.report.pages.page import build_report

    for recipe in load_run(run).recipes:
        typer.echo(f"Report: {build_report(run, recipe=recipe)}")


@app.command()
def check(
    model: Annotated[
        str, typer.Argument(help="gpt2, or the directory of a model with 12 x 12 heads.")
    ],
    prompts: Annotated[
        int, typer.Option(min=2, help="Test the heads on this number of prompts.")
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, help="Draw prompts and random tokens with this seed.")
    ] = 0,
    device: Annotated[
        str, typer.Option(help="Compute on auto, cpu, cuda, cuda:1 and so on.")
    ] = "auto",
) -> None:
    """Test the published heads of indirect object identification in GPT-2 small.

    Prints for each head whether it passes the tests of its role: a known result to check this
    software on your machine. The exit status is 0 also if a head fails.
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
        from circuitlapse.pipeline.run.estimates import estimates

        print_estimates(estimates(experiment, out), console)
        return
    with watch(Console(stderr=True)) as listen:
        finished = run_experiment(experiment, out, listen)
    print_summary(finished, console)


def main() -> None:
    """Run the command line; bad input ends with one message and status 2."""
    try:
        app()
    except CircuitlapseError as error:
        _end(error)
    except OSError as error:
        if error.filename is None and error.errno not in _FULL:  # not about a file of the user
            raise
        # A draft is named as the file that it was to become.
        where = "this path" if error.filename is None else re.sub(DRAFT, "", str(error.filename))
        _end(
            CircuitlapseError(
                f"{where} cannot be read or written",
                got=error.strerror,
                fix="Check its permissions and the free disk space, or use another path",
            )
        )


def _end(error: CircuitlapseError) -> NoReturn:
    typer.echo(f"circuitlapse: {error}", err=True)
    sys.exit(2)

"""Start a run, or go on with one: an experiment from beginning to end, or two models compared."""

from pathlib import Path

from circuitlapse import __version__
from circuitlapse.api.finished_run import Run
from circuitlapse.api.lines import watched
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import comparison
from circuitlapse.config.toml import read_experiment
from circuitlapse.pipeline.job import Listener
from circuitlapse.pipeline.run.execute import FailedRunsError
from circuitlapse.pipeline.run.run import run_in
from circuitlapse.records.columns import SCHEMAS
from circuitlapse.records.layout import report_path, verdict_path
from circuitlapse.records.store import Store, key_of


def run_experiment(
    experiment: Experiment | Path | str,
    out: Path | str,
    progress: Listener | None = None,
) -> Run:
    """Run an experiment, or resume what an earlier call began.

    Args:
        experiment: The experiment, or the path of its TOML file.
        out: Directory of the run. A finished run of the same experiment is returned as it is.
        progress: Called with events while it works. Without it a notebook shows a line every five
            seconds, and nothing is printed elsewhere.

    Raises:
        CircuitlapseError: For any mistake in the experiment, the models or the directory; and where
            fine-tunes failed, after everything else was finished.
    """
    if not isinstance(experiment, Experiment):
        experiment = read_experiment(experiment)
    out = Path(out)
    lost: FailedRunsError | None = None
    try:
        with watched(progress) as listen:
            run_in(experiment, out, listen)
    except FailedRunsError as error:
        lost = error
    store = Store(out)
    for recipe in experiment.finetune.recipes():
        if lost is None or store.record(verdict_path(recipe)):
            _keep_report(store, recipe)
    if lost is not None:
        raise lost
    return Run(out)


def compare_models(
    base: Path | str,
    tuned: Path | str,
    old: str = "ioi2",
    new: str = "ioi3",
    out: Path | str | None = None,
    prompts: int | None = None,
    workers: int = 0,
    device: str = "auto",
    progress: Listener | None = None,
) -> Run:
    """Compare two models that were fine-tuned elsewhere, without checkpoints in between.

    It is a run on checkpoints of yours, of which there are two: the base is step 0, the tuned model
    step 1. No placebo is run, so that only ``no_gain`` and ``undetermined`` can be its label;
    shares and all tables are there.

    Args:
        base: Directory or Hub name of the model before fine-tuning.
        tuned: Likewise after it, of the same architecture and vocabulary; an adapter will do.
        old: The old task: a name, or the path of a file of your own.
        new: The new task.
        out: Directory of the run; by default ``runs/compare-NAME``, NAME being the tuned model's.
        prompts: Prompts for behaviour, circuits, groups and grafts alike; the defaults without it.
        workers: Number of worker processes; 0 takes one per core.
        device: As :func:`circuitlapse.load_model` takes it.
        progress: Called with events while it works. Without it a notebook shows a line every five
            seconds, and nothing is printed elsewhere.

    Raises:
        CircuitlapseError: If a model or task is not there, or the models differ in architecture.
    """
    experiment = comparison(base, tuned, old, new, prompts)
    compute = experiment.compute.model_copy(update={"workers": workers, "device": device})
    experiment = experiment.model_copy(update={"compute": compute})
    return run_experiment(experiment, out or comparison_out(tuned), progress)


def comparison_out(tuned: Path | str) -> Path:
    """Where two models' comparison goes where no place was named."""
    return Path("runs") / f"compare-{Path(str(tuned).rstrip('/')).absolute().name}"


def _keep_report(store: Store, recipe: str) -> None:
    """Build the report unless it was made from these very records by this version."""
    sources = [f"tables/{name}.parquet" for name in SCHEMAS]
    records = [store.record(name) for name in (*sources, verdict_path(recipe), "provenance.json")]
    key = key_of("report", __version__, [record.sha256 for record in records if record])
    if store.state(report_path(recipe), key) == "ready":
        return
    from circuitlapse.report.pages.page import build_report

    build_report(store.root, key, recipe)

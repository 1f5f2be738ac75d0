"""Start or resume a run: of an experiment, or to compare two models."""

from pathlib import Path

from circuitlapse import __version__
from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.api.finished_run import Run
from circuitlapse.api.progress_lines import watched
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import comparison
from circuitlapse.config.toml import read_experiment
from circuitlapse.pipeline.job import Listener
from circuitlapse.pipeline.run.execute import FailedRunsError
from circuitlapse.pipeline.run.run import run_in
from circuitlapse.records.layout import report_path, verdict_path
from circuitlapse.records.store import Store, key_of


def run_experiment(
    experiment: Experiment | Path | str,
    out: Path | str,
    progress: Listener | None = None,
) -> Run:
    """Run an experiment, or resume an interrupted run.

    Args:
        experiment: The experiment, or the path of its TOML file.
        out: Directory of the run. A finished run of the same experiment is returned as it is.
        progress: Called with progress events. By default a notebook shows a line every five
            seconds, and nothing is printed elsewhere.

    Raises:
        CircuitlapseError: For invalid experiments, models or directories; and for failed
            fine-tunes, after everything else is finished.
    """
    if not isinstance(experiment, Experiment):
        experiment = read_experiment(experiment)
    out = Path(out)
    failed: FailedRunsError | None = None
    try:
        with watched(progress) as listen:
            run_in(experiment, out, listen)
    except FailedRunsError as error:
        failed = error
    store = Store(out)
    for recipe in experiment.finetune.recipes():
        if failed is None or store.record(verdict_path(recipe)):
            _keep_report(store, recipe)
    if failed is not None:
        raise failed
    return Run(out)


def compare_models(
    base: Path | str,
    tuned: Path | str,
    old: str = "ioi2",
    new: str = "ioi3",
    out: Path | str | None = None,
    prompts: int | None = None,
    bits: bool = True,
    workers: int = 0,
    device: str = "auto",
    progress: Listener | None = None,
) -> Run:
    """Compare a base with its fine-tuned model, without checkpoints in between.

    The run has two checkpoints: the base is step 0, the tuned model step 1. It has no placebo, and
    the verdict's scope says so.

    Args:
        base: Directory or Hub name of the model before fine-tuning.
        tuned: Directory or Hub name of the model after it, of the same architecture and vocabulary,
            or of an adapter.
        old: The old task: a name, or the path of a file.
        new: The new task.
        out: Directory of the run (default: ``runs/compare-NAME``, with NAME of the tuned model).
        prompts: Number of prompts for each measurement.
        bits: Whether short trainings from the base measure bits_ratio. Without it the label cannot
            say whether the ability was there.
        workers: Number of worker processes; 0: one per core.
        device: As :func:`circuitlapse.load_model` takes it.
        progress: Called with progress events. By default a notebook shows a line every five
            seconds, and nothing is printed elsewhere.

    Raises:
        CircuitlapseError: If a model or task does not exist, or the architectures differ.
    """
    experiment = comparison(base, tuned, old, new, prompts, bits=bits)
    compute = experiment.compute.model_copy(update={"workers": workers, "device": device})
    experiment = experiment.model_copy(update={"compute": compute})
    return run_experiment(experiment, out or comparison_out(tuned), progress)


def comparison_out(tuned: Path | str) -> Path:
    """Return the default directory of a comparison."""
    return Path("runs") / f"compare-{Path(str(tuned).rstrip('/')).absolute().name}"


def _keep_report(store: Store, recipe: str) -> None:
    """Build the report unless this version made it from the same records."""
    sources = [f"tables/{name}.parquet" for name in SCHEMAS]
    records = [store.record(name) for name in (*sources, verdict_path(recipe), "provenance.json")]
    key = key_of("report", __version__, [record.sha256 for record in records if record])
    if store.state(report_path(recipe), key) == "ready":
        return
    from circuitlapse.report.pages.page import build_report

    build_report(store.root, key, recipe)

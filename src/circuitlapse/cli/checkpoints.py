"""``circuitlapse run --checkpoints``: an experiment from a few options instead of a file."""

from pathlib import Path
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.presets import prompt_counts
from circuitlapse.config.toml import read_experiment, validated
from circuitlapse.errors import CircuitlapseError


def experiment_from(file: Path | None, checkpoints: list[str], **options: Any) -> Experiment:
    """Return the file's experiment, or one built from the options; never a mixture of both.

    ``options`` are ``base``, ``old``, ``new``, ``prompts``, ``counterfactuals`` and ``patch_at``,
    None or empty if not given.

    Raises:
        CircuitlapseError: If neither or both are given, or a value is not valid.
    """
    given = [
        f"--{name.removesuffix('s') if name == 'counterfactuals' else name}".replace("_", "-")
        for name, value in options.items()
        if value
    ]
    if file is not None:
        given = [*(["--checkpoints"] if checkpoints else []), *given]
        if given:
            raise CircuitlapseError(
                f"{', '.join(given)} cannot be combined with an experiment file",
                got=str(file),
                fix="Set the values in the file, or leave the file out",
            )
        return read_experiment(file)
    if not checkpoints:
        raise CircuitlapseError(
            f"{', '.join(given)} need(s) --checkpoints" if given else "there is nothing to run",
            fix="Name an experiment file, or checkpoints: circuitlapse run --checkpoints "
            "'out/checkpoint-*' --base gpt2 --old ioi2 --new ioi3",
        )
    counts = prompt_counts(options["prompts"])
    measure = {
        "counterfactuals": options["counterfactuals"] or None,
        "patch_at": options["patch_at"],
    }
    data: dict[str, dict[str, Any]] = {
        **counts,
        "base": {"path": options["base"]},
        "tasks": {"old": options["old"], "new": options["new"]},
        "measure": counts.get("measure", {}) | measure,
    }
    sections = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in data.items()
    }
    return validated({"checkpoints": checkpoints, **sections}, "the experiment of these options")


def run_name(checkpoints: list[str]) -> str:
    """Return a run's name: the directory or repository of its checkpoints."""
    first = Path(checkpoints[0].partition("@")[0].rstrip("/"))
    patterned = any(sign in first.name for sign in "*?[{")
    return (first.parent if patterned else first).absolute().name or "checkpoints"

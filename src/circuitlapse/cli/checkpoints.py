"""``circuitlapse run --checkpoints``: an experiment from a few options instead of a file."""

from pathlib import Path
from typing import Any

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.toml import read_experiment, validated
from circuitlapse.errors import CircuitlapseError


def experiment_from(file: Path | None, checkpoints: list[str], **options: Any) -> Experiment:
    """Read the experiment's file, or build one from the options; never a mixture of both.

    Args:
        file: The experiment file, if one was named.
        checkpoints: Values of ``--checkpoints``.
        options: ``base``, ``old``, ``new``, ``prompts``, ``counterfactuals`` and ``patch_at``, None
        or
            empty where not given.

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
                f"an experiment file says everything itself, so {', '.join(given)} cannot stand "
                "beside one",
                got=str(file),
                fix="Write it into the file, or leave the file out",
            )
        return read_experiment(file)
    if not checkpoints:
        raise CircuitlapseError(
            f"{', '.join(given)} need(s) --checkpoints" if given else "there is nothing to run",
            fix="Name an experiment file, or checkpoints: circuitlapse run --checkpoints "
            "'out/checkpoint-*' --base gpt2 --old ioi2 --new ioi3",
        )
    prompts = options["prompts"]
    data: dict[str, dict[str, Any]] = {
        "base": {"path": options["base"]},
        "tasks": {"old": options["old"], "new": options["new"]},
        "measure": {
            "prompts": prompts,
            "circuit_prompts": prompts,
            "counterfactuals": options["counterfactuals"] or None,
            "patch_at": options["patch_at"],
        },
        "compare": {"group_prompts": prompts, "graft_prompts": prompts},
    }
    sections = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in data.items()
    }
    return validated({"checkpoints": checkpoints, **sections}, "what the options describe")


def run_name(checkpoints: list[str]) -> str:
    """Name a run after the directory or repository that its checkpoints are in."""
    first = Path(checkpoints[0].partition("@")[0].rstrip("/"))
    patterned = any(sign in first.name for sign in "*?[{")
    return (first.parent if patterned else first).absolute().name or "checkpoints"

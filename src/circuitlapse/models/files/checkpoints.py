"""Find checkpoints: from names and patterns to one path or Hub revision for every step.

A name is a path, a pattern of paths (``out/checkpoint-*``), or a revision on the Hub
(``EleutherAI/pythia-160m@step1000``); braces list alternatives. A directory that is no checkpoint
stands for the checkpoints in it: a ``Trainer``'s output, or state dicts and a config.
"""

import glob
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from circuitlapse.errors import CircuitlapseError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_STEP = re.compile(r"(?<![a-z])(?:global[-_]?step|step|checkpoint|ckpt|iter(?:ation)?)s?[-_]?(\d+)")
_TRAINING_STATE = re.compile(r"optim|sched|scaler|rng")  # saved together with the weights
_BRACES = re.compile(r"\{([^{}]*)\}")
_SMALL = ["*.json", "*.txt", "*.model", "*.jinja"]  # configs, adapters' configs and tokenizers
_TABLE = 'Name the step yourself in the experiment file: [checkpoints], then 8 = "path" and so on'


def find_checkpoints(names: Sequence[str] | dict[int, str]) -> dict[int, str]:
    """Return the path, Hub name or Hub revision of each checkpoint, by step.

    Names given by step are taken as they are.

    Raises:
        CircuitlapseError: If a name matches nothing, has no step, or the step of another.
    """
    if isinstance(names, dict):
        return {step: absolute(name) for step, name in sorted(names.items())}
    found: dict[int, str] = {}
    for name in dict.fromkeys(each for pattern in names for each in _expand(pattern)):
        step = _step_of(name)
        if step in found:
            raise CircuitlapseError(
                f"two checkpoints are of step {step}", got=f"{found[step]} and {name}", fix=_TABLE
            )
        found[step] = name
    return dict(sorted(found.items()))


def locate(name: str) -> Path:
    """Return the path of a checkpoint's files, after downloading those of a Hub revision.

    Raises:
        CircuitlapseError: If there is no such path, or neither the Hub nor its cache has it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    repository, _, revision = name.partition("@")
    if os.path.isabs(name) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
        raise CircuitlapseError(
            "there is no such checkpoint",
            got=name,
            fix="Give a directory, a file of weights, or a Hub revision as owner/name@revision",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for weights in (["*.safetensors"], ["*.bin"]):
            fetched = snapshot_download(
                repository, revision=revision or None, allow_patterns=[*_SMALL, *weights]
            )
            if any(Path(fetched).glob(weights[0])):
                break
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CircuitlapseError(
            "there is no such path, and no such revision on the Hub or in its cache",
            got=name,
            fix="Check name and revision; without a network, download it before",
        ) from error
    return Path(fetched)


def is_checkpoint(path: Path) -> bool:
    """Whether a file or directory holds weights of its own."""
    if path.is_file():
        return path.suffix in WEIGHT_SUFFIXES
    stems = ("model", "pytorch_model", "adapter_model")
    return any(
        path.joinpath(f"{stem}{suffix}{index}").is_file()
        for stem in stems
        for suffix in WEIGHT_SUFFIXES
        for index in ("", ".index.json")
    )


def absolute(name: str) -> str:
    """Make a path absolute; leave a Hub name unchanged."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def _expand(name: str) -> Iterator[str]:
    """List the checkpoints of a name: expand braces, then patterns, then directories."""
    path = Path(name).expanduser()
    there, rest = _split(path)
    braces = _BRACES.search(rest)
    if braces:
        for choice in braces[1].split(","):
            choice = rest[: braces.start()] + choice.strip() + rest[braces.end() :]
            yield from _expand(str(there / choice))
        return
    if glob.has_magic(rest):
        matches = sorted(glob.glob(rest, root_dir=there))
        if not matches:
            raise CircuitlapseError(
                "no path matches this pattern", got=name, fix="Quote it, and check where it starts"
            )
        for match in matches:
            yield from _expand(str(there / match))
    elif path.is_dir() and (inner := _inside(path)):
        yield from map(absolute, inner)
    elif path.exists() or "@" in name:
        yield absolute(name)
    else:
        raise CircuitlapseError(
            "there is no such checkpoint",
            got=name,
            fix="Give a directory, a pattern, or a Hub revision as owner/name@revision",
        )


def _split(path: Path) -> tuple[Path, str]:
    """Split a path into the part that exists, taken literally, and the rest."""
    there = next(each for each in (path, *path.parents) if each.exists())
    return there, "" if there == path else str(path.relative_to(there))


def _inside(directory: Path) -> list[str]:
    """The checkpoints in a Trainer's output, or the state dicts with a step in their names."""
    children = [child for child in sorted(directory.iterdir()) if _STEP.search(child.name.lower())]
    trained = [child for child in children if re.fullmatch(r"checkpoint-\d+", child.name)]
    if trained:
        return [str(child) for child in trained]
    if is_checkpoint(directory):
        return []
    return [
        str(child)
        for child in children
        if is_checkpoint(child) and not _TRAINING_STATE.match(child.name.lower())
    ]


def _step_of(name: str) -> int:
    """The step at the end of a name, or in the trainer's state in the same directory."""
    path = Path(name)
    last = path.name if path.exists() else name.partition("@")[2]
    if path.is_file():
        last = path.stem
    named = {int(number) for number in _STEP.findall(last.lower())}
    if last.isdecimal():
        named = {int(last)}
    noted = _noted_step(path / "trainer_state.json")
    if noted is not None and (not named or named == {noted}):
        return noted
    if len(named) == 1 and noted is None:
        return named.pop()
    what = "has no step in its name and no trainer_state.json"
    if noted is not None:
        what = f"has another step in its name than in its trainer_state.json, which says {noted}"
    elif named:
        what = f"has several steps in its name: {', '.join(map(str, sorted(named)))}"
    raise CircuitlapseError(f"this checkpoint {what}", got=name, fix=_TABLE)


def _noted_step(state: Path) -> int | None:
    try:
        return int(json.loads(state.read_text("utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

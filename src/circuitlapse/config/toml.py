"""Experiments as TOML: reading with errors that name the key, and writing with comments."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from circuitlapse.config.experiment import Experiment
from circuitlapse.config.section import Section
from circuitlapse.errors import CircuitlapseError


def read_experiment(path: Path | str) -> Experiment:
    """Read and validate an experiment.

    Raises:
        CircuitlapseError: If the file cannot be read, is not TOML, or has an invalid key or value;
            every fault is named with its key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CircuitlapseError(
            f"there is no experiment file {path}",
            fix="`circuitlapse demo --print-config > experiment.toml` writes one to start from",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CircuitlapseError(f"{path} cannot be read as text", got=str(error)) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CircuitlapseError(
            f"{path} is not valid TOML", got=str(error), fix="See https://toml.io for the syntax"
        ) from None
    return validated(data, str(path))


def validated(data: Mapping[str, Any], source: str) -> Experiment:
    """Return the experiment with these sections and keys; ``source`` names it in the error.

    Raises:
        CircuitlapseError: Naming every invalid key and value.
    """
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  {_explain(fault)}" for fault in error.errors())
        raise CircuitlapseError(
            f"{source} is not a valid experiment:\n{faults}\n",
            fix="`circuitlapse demo --print-config` prints every key with its meaning",
        ) from None


def _explain(fault: Any) -> str:
    """One line for a pydantic error: key, fault, value, and the most similar known key."""
    *parents, last = fault["loc"] or ("",)
    where = ".".join(str(part) for part in (*parents, last))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(last), _keys_at(parents), n=1)
        hint = (
            f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(_keys_at(parents))}"
        )
        return f"`{where}` is not a key{hint}"
    if fault["type"] == "missing":
        return f"`{where}` is missing"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    got = "" if isinstance(fault["input"], dict) else f" (got {fault['input']!r})"
    return f"`{where}`: {message}{got}" if where else message


def _keys_at(parents: list[Any]) -> list[str]:
    """Names of the fields of the section at ``parents``."""
    section: type[BaseModel] = Experiment
    for parent in parents:
        field = section.model_fields.get(str(parent))
        if field is None or not isinstance(field.annotation, type):
            return []
        section = field.annotation
    return list(section.model_fields)


def to_toml(experiment: Experiment) -> str:
    """Return an experiment as TOML with its defaults, each key below its description."""
    lines = _checkpoint_lines(experiment)
    for name in Experiment.model_fields:
        section = getattr(experiment, name)
        if isinstance(section, Section) and not (name == "finetune" and experiment.checkpoints):
            lines += _section(name, section)
    return "\n".join(lines)


def _section(name: str, section: Section) -> list[str]:
    lines = [f"# {(type(section).__doc__ or '').splitlines()[0]}", f"[{name}]"]
    inner: list[str] = []  # tables come after all keys, or the keys would be theirs
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            inner += _section(f"{name}.{key}", value)
        elif isinstance(value, dict):
            inner += [f"# {field.description}", f"[{name}.{key}]"]
            inner += [f"{_written(k)} = {_written(v)}" for k, v in value.items()] + [""]
        else:
            lines.append(f"# {field.description}")
            lines.append(f"# {key} =" if value is None else f"{key} = {_written(value)}")
    return [*lines, "", *inner]


def _written(value: Any) -> str:
    """Write a value; JSON's strings, numbers, booleans and lists are TOML's too."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_written(k)} = {_written(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(value)


def _checkpoint_lines(experiment: Experiment) -> list[str]:
    found = experiment.checkpoints
    lines = [f"# {Experiment.model_fields['checkpoints'].description}"]
    if not found:
        return [*lines, "# checkpoints =", ""]
    if isinstance(found, tuple):
        return [*lines, f"checkpoints = {json.dumps(list(found))}", ""]
    steps = (f"{step} = {json.dumps(name)}" for step, name in found.items())
    return [*lines, "[checkpoints]", *steps, ""]

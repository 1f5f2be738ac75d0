"""Reading a run directory: the one place in the report that touches its files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from pydantic import BaseModel, ValidationError

from circuitlapse.config import Experiment, read_experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import Provenance, Verdict
from circuitlapse.records.tables import SCHEMAS

_Document = TypeVar("_Document", bound=BaseModel)
_AGAIN = "Run `circuitlapse run` on the experiment again: it goes on where it stopped"


@dataclass(frozen=True)
class RunRecords:
    """Everything that a report is made from.

    Attributes:
        name: Name of the run directory.
        experiment: The validated experiment.
        experiment_text: Its file as written.
        provenance: Versions, hashes and the command.
        verdict: The answer with its evidence.
        tables: Every table of ``records.tables.SCHEMAS``, by name.
        prompts: The first test items of each task, by task; each has at least ``prompt``,
            ``answer`` and ``corrupt`` (corruption name to prompt).
    """

    name: str
    experiment: Experiment
    experiment_text: str
    provenance: Provenance
    verdict: Verdict
    tables: dict[str, pl.DataFrame]
    prompts: dict[str, list[dict[str, Any]]]


def read_run(run: Path, prompts: int = 4) -> RunRecords:
    """Read a finished run's records.

    Args:
        run: The run directory.
        prompts: How many sample items to take from each task's file.

    Raises:
        CircuitlapseError: If the directory or a file is missing, unreadable, or of another
            version; the file is named.
    """
    run = Path(run)
    if not run.is_dir():
        raise CircuitlapseError(
            "there is no run directory here",
            got=str(run),
            fix="Pass the directory that `circuitlapse run` or `circuitlapse demo` wrote",
        )
    experiment_file = _existing(run, "experiment.toml")
    return RunRecords(
        name=run.resolve().name,
        experiment=read_experiment(experiment_file),
        experiment_text=experiment_file.read_text(encoding="utf-8"),
        provenance=_document(run, "provenance.json", Provenance),
        verdict=_document(run, "verdict.json", Verdict),
        tables={name: _table(run, name) for name in SCHEMAS},
        prompts=_prompts(run, prompts),
    )


def _existing(run: Path, name: str) -> Path:
    path = run / name
    if not path.is_file():
        raise CircuitlapseError(f"{path} is missing, so the run is not finished", fix=_AGAIN)
    return path


def _document(run: Path, name: str, kind: type[_Document]) -> _Document:
    path = _existing(run, name)
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CircuitlapseError(
            f"{path} is not what this version of circuitlapse writes",
            got=f"{where}: {fault['msg']}" if where else fault["msg"],
            fix=f"Delete it. {_AGAIN}",
        ) from None


def _table(run: Path, name: str) -> pl.DataFrame:
    path = _existing(run, f"tables/{name}.parquet")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CircuitlapseError(
            f"{path} cannot be read as Parquet", got=str(error), fix=f"Delete it. {_AGAIN}"
        ) from None
    wrong = [column for column, kind in SCHEMAS[name].items() if frame.schema.get(column) != kind]
    if wrong:
        raise CircuitlapseError(
            f"{path} does not have the columns of this version",
            got=f"missing or of another type: {', '.join(wrong)}",
            fix=f"Delete it. {_AGAIN}",
        )
    if name in ("behaviour", "nodes") and frame.is_empty():
        raise CircuitlapseError(f"{path} has no rows", fix=f"Delete it. {_AGAIN}")
    return frame.select(list(SCHEMAS[name]))


def _prompts(run: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    files = sorted((run / "tasks").glob("*.test.jsonl"))
    if not files:
        raise CircuitlapseError(f"{run / 'tasks'} holds no TASK.test.jsonl", fix=_AGAIN)
    return {path.name.removesuffix(".test.jsonl"): _items(path, count) for path in files}


def _items(path: Path, count: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if len(items) == count:
                break
            try:
                item = json.loads(line)
                whole = all(isinstance(item[key], str) for key in ("prompt", "answer"))
                if not (whole and isinstance(item["corrupt"], dict)):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise CircuitlapseError(
                    f"{path}, line {number}, is not an item with prompt, answer and corrupt",
                    fix=f"Delete the file. {_AGAIN}",
                ) from None
            items.append(item)
    return items

"""Reads a run directory and verifies each file; no other part of the report opens files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.config.experiment import Experiment, file_label
from circuitlapse.config.finetune import ONLY, TrainingRun
from circuitlapse.config.toml import read_experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import Provenance, Verdict
from circuitlapse.records.layout import verdict_path
from circuitlapse.records.store import Store, metadata

_Document = TypeVar("_Document", bound=BaseModel)
_AGAIN = "Delete the file and run the same command again: it makes only what is missing"


@dataclass(frozen=True)
class Patterns:
    """Attention on a few example prompts.

    ``tokens`` has each prompt's tokens by task. ``weights`` has, by (fine-tuning seed, step) and
    task, ``[prompts, layers, heads, query, key]`` in steps of 1/255.
    """

    tokens: dict[str, list[list[str]]]
    weights: dict[tuple[int, int], dict[str, np.ndarray]]


@dataclass(frozen=True)
class RunRecords:
    """The data of a report on one recipe.

    Attributes:
        tables: Every table of ``SCHEMAS``, with the recipe's rows.
        prompts: The first test items of each task, by task; each has at least ``prompt``,
            ``answer`` and ``corrupt`` (counterfactual name to prompt).
        recipes: The tables ``behaviour`` and ``training`` with the rows of all recipes.
        labels: The label of each recipe that has a verdict already.
    """

    name: str
    experiment: Experiment
    experiment_text: str
    provenance: Provenance
    verdict: Verdict
    tables: dict[str, pl.DataFrame]
    prompts: dict[str, list[dict[str, Any]]]
    patterns: Patterns
    recipe: str
    recipes: dict[str, pl.DataFrame]
    labels: dict[str, str]


_SAMPLES = 4  # items of each task on the page


def read_run(run: Path, recipe: str = ONLY) -> RunRecords:
    """Return a finished run's records on one of a grid's recipes.

    Raises:
        CircuitlapseError: If a file is missing, unreadable, changed or of another version, or the
            recipe has no results.
    """
    run = Path(run)
    directory = "Pass the directory that `circuitlapse run` or `circuitlapse demo` wrote"
    if not run.is_dir():
        raise CircuitlapseError("there is no such run directory", got=str(run), fix=directory)
    store, experiment_file = Store(run), run / "experiment.toml"
    if not experiment_file.is_file():
        raise CircuitlapseError(f"{run} is not a run: it has no experiment.toml", fix=directory)
    experiment = read_experiment(experiment_file)
    tasks = experiment.tasks
    # The page joins its keys by slashes, which the path of a custom task has, too.
    labels = {task: file_label(task) for task in (tasks.old, tasks.new)}
    shown = tasks.model_copy(update={"old": labels[tasks.old], "new": labels[tasks.new]})
    tables = {name: _table(store, name, labels) for name in SCHEMAS}
    for name in ("behaviour", "nodes"):
        there = tables[name]["recipe"].unique(maintain_order=True).to_list()
        if not there:
            path = run / f"tables/{name}.parquet"
            raise CircuitlapseError(f"{path} has no rows", fix=_AGAIN)
        if recipe not in there:
            raise CircuitlapseError(
                f"{run} has no results for this recipe",
                got=recipe,
                fix=f"Use one that finished: {', '.join(there)}",
            )
    return RunRecords(
        name=run.resolve().name,
        experiment=experiment.model_copy(update={"tasks": shown}),
        experiment_text=experiment_file.read_text(encoding="utf-8"),
        provenance=_document(store, "provenance.json", Provenance),
        verdict=_document(store, verdict_path(recipe), Verdict),
        tables={name: frame.filter(pl.col("recipe") == recipe) for name, frame in tables.items()},
        prompts={
            label: _items(store, f"tasks/{label}.test.jsonl", _SAMPLES) for label in labels.values()
        },
        patterns=_patterns(store, experiment, recipe, labels),
        recipe=recipe,
        recipes={name: tables[name] for name in ("behaviour", "training")},
        labels={
            name: _document(store, verdict_path(name), Verdict).label
            for name in experiment.finetune.recipes()
            if store.record(verdict_path(name))
        },
    )


def _document(store: Store, name: str, kind: type[_Document]) -> _Document:
    content = store.read(name)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CircuitlapseError(
            f"{store.root / name} was written by another version of circuitlapse",
            got=f"{where}: {fault['msg']}" if where else fault["msg"],
            fix=_AGAIN,
        ) from None


def _table(store: Store, name: str, labels: dict[str, str]) -> pl.DataFrame:
    content, path = store.read(f"tables/{name}.parquet"), store.root / f"tables/{name}.parquet"
    try:
        frame = pl.read_parquet(content)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CircuitlapseError(
            f"{path} cannot be read as Parquet", got=str(error), fix=_AGAIN
        ) from None
    wrong = [column for column, kind in SCHEMAS[name].items() if frame.schema.get(column) != kind]
    if wrong:
        raise CircuitlapseError(
            f"{path} does not have the columns of this version",
            got=f"missing or of another type: {', '.join(wrong)}",
            fix=_AGAIN,
        )
    if "task" in SCHEMAS[name]:
        frame = frame.with_columns(pl.col("task").replace(labels))
    return frame.select(list(SCHEMAS[name]))


def _patterns(
    store: Store, experiment: Experiment, recipe: str, labels: dict[str, str]
) -> Patterns:
    tokens: dict[str, list[list[str]]] = {}
    weights = {}
    for seed in experiment.finetune.seeds:
        training_run = TrainingRun(recipe, seed).name
        if not store.record(f"patterns/{training_run}/step-00000.safetensors"):
            continue  # a fine-tune that failed
        for step in filter(experiment.is_end, experiment.steps()):
            name = f"patterns/{training_run}/step-{step:05d}.safetensors"
            content = store.read(name)
            try:
                arrays = load(content)
                tokens = json.loads(metadata(content)["about"])["tokens"]
                weights[seed, step] = {labels[t]: arrays[t] for t in tokens}
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                raise CircuitlapseError(
                    f"{store.root / name} does not hold attention patterns",
                    got=str(error),
                    fix=_AGAIN,
                ) from None
    return Patterns({labels[task]: texts for task, texts in tokens.items()}, weights)


def _items(store: Store, name: str, count: int) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for number, line in enumerate(store.read(name).splitlines()[:count], start=1):
        try:
            item = json.loads(line)
            whole = all(isinstance(item[key], str) for key in ("prompt", "answer"))
            if not (whole and isinstance(item["corrupt"], dict)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise CircuitlapseError(
                f"{store.root / name}, line {number}, is not an item with prompt, answer and "
                "corrupt",
                fix=_AGAIN,
            ) from None
        items.append(item)
    return items

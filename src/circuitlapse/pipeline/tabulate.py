"""From per-prompt arrays to the tidy tables: what was measured, with its intervals."""

import json
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import polars as pl

from circuitlapse.config import Arm, Experiment
from circuitlapse.models import Graph
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.measure import Arrays, family_mean, load_about, load_arrays
from circuitlapse.records import Estimate, Store
from circuitlapse.records.intervals import (
    Intervals,
    mean_interval,
    mean_intervals,
    near_zero,
    proportion_interval,
)
from circuitlapse.tasks import get_task

Row = dict[str, Any]
EDGES_KEPT = 200  # per checkpoint, task and corruption; all of them stay in the scores


class Scores:
    """What a run has measured, read with its hashes checked.

    Attributes:
        store: The run's artifacts.
        experiment: What was run.
    """

    def __init__(self, store: Store, experiment: Experiment) -> None:
        """Open the scores of a run; nothing is read yet."""
        self.store, self.experiment = store, experiment
        self.at = lru_cache(maxsize=8)(self._at)

    @property
    def tasks(self) -> tuple[str, str]:
        """The old and the new task."""
        return self.experiment.tasks.old, self.experiment.tasks.new

    @property
    def last(self) -> int:
        """The last step."""
        return self.experiment.steps()[-1]

    @cached_property
    def graph(self) -> Graph:
        """The graph that all checkpoints share."""
        first = plan.scores(self.experiment.arms()[0].name, 0, self.tasks[0])
        return Graph(**load_about(self.store.read(first)))

    def _at(self, arm: str, step: int, task: str) -> Arrays:
        return load_arrays(self.store.read(plan.scores(arm, step, task)))

    def family(self, arm: str, step: int, task: str, name: str, family: str) -> np.ndarray:
        """Array ``name`` averaged over the variants of a corruption family."""
        return family_mean(self.at(arm, step, task), name, get_task(task).families[family])

    def table(self, name: str, arm: Arm) -> list[Row]:
        """The rows of a table that is there already, of one fine-tune."""
        wanted = [pl.col(column) == value for column, value in self.names(arm).items()]
        content = self.store.read(f"tables/{name}.parquet")
        return pl.read_parquet(content).filter(*wanted).to_dicts()

    def rows(self, name: str) -> list[Row]:
        """Table rows that a job wrote as JSON, without the columns that name the run."""
        return json.loads(self.store.read(name))

    def names(self, arm: Arm) -> Row:
        """The columns that say which fine-tune of which base a row is about."""
        return {
            "base_seed": self.experiment.base.seed,
            "recipe": arm.recipe,
            "finetune_seed": arm.seed,
        }

    def checkpoints(self) -> Iterator[tuple[Row, Arrays]]:
        """Every measured (arm, step, task) with the columns that name it."""
        for arm in self.experiment.arms():
            for step in self.experiment.steps():
                for task in self.tasks:
                    names = {**self.names(arm), "step": step, "task": task}
                    yield names, self.at(arm.name, step, task)


def spread(name: str, estimate: Estimate | None) -> Row:
    """The three columns of an estimate; nulls where there is none."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return estimate.columns(name)


def behaviour_rows(names: Row, arrays: Arrays) -> Iterator[Row]:
    """Accuracy, accuracy among the names and logit difference of one checkpoint on one task."""
    for split in ("test", "test_templates"):
        values = {q: arrays[f"behaviour.{split}.{q}"] for q in
                  ("correct", "correct_among", "logit_diff")}  # fmt: skip
        n = len(values["correct"])
        yield {
            **names,
            "split": split,
            "n": n,
            **spread("accuracy", proportion_interval(int(values["correct"].sum()), n)),
            **spread("accuracy_among", proportion_interval(int(values["correct_among"].sum()), n)),
            **spread("logit_diff", mean_interval(values["logit_diff"])),
        }


def rise_over(base: Arrays, arrays: Arrays, split: str) -> Estimate:
    """By how much the logit difference is above the base's, on the same prompts of one task."""
    metric = f"behaviour.{split}.logit_diff"
    return mean_interval(arrays[metric].astype(np.float64) - base[metric])


def _behaviour(scores: Scores) -> list[Row]:
    return [row for found in scores.checkpoints() for row in behaviour_rows(*found)]


def _placebo(scores: Scores) -> list[Row]:
    rows: list[Row] = []
    base = {task: scores.at(scores.experiment.arms()[0].name, 0, task) for task in scores.tasks}
    for recipe in scores.experiment.finetune.recipes():
        for placebo in scores.experiment.placebos(recipe):
            for task in scores.tasks:
                arrays = scores.at(placebo.name, scores.last, task)
                names = {**scores.names(Arm(recipe, placebo.seed)), "step": scores.last}
                for row in behaviour_rows({**names, "task": task}, arrays):
                    rise = rise_over(base[task], arrays, row["split"])
                    rows.append({"placebo": placebo.kind, **row, **spread("rise", rise)})
    return rows


def _corruptions(task: str, families: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """A task's families, and each variant of those that average several, with their variants."""
    found = {family: get_task(task).families[family] for family in families}
    variants = [v for group in found.values() if len(group) > 1 for v in group]
    return {**found, **{variant: (variant,) for variant in variants}}


def _nodes(scores: Scores) -> list[Row]:
    rows, graph = [], scores.graph
    for names, arrays in scores.checkpoints():
        found = _corruptions(names["task"], scores.experiment.measure.corruptions)
        for corruption, variants in found.items():
            exact = all(f"effects.{variant}" in arrays for variant in variants)
            effects = mean_intervals(family_mean(arrays, "effects", variants)) if exact else None
            # What a head writes, over all that read it: the node's attribution.
            totals = family_mean(arrays, "edges", variants).sum(axis=1)[1:]
            rows += list(_node_rows(graph, {**names, "corruption": corruption}, effects, totals))
    return rows


def _node_rows(
    graph: Graph, names: Row, effects: Intervals | None, attribution: np.ndarray
) -> Iterator[Row]:
    for index, (node, place) in enumerate(zip(graph.nodes, graph.places, strict=True)):
        yield {
            **names,
            "node": node,
            "kind": "mlp" if place.head < 0 else "head",
            "layer": place.layer,
            "head": place.head,
            **spread("effect", effects[index] if effects else None),
            "attribution": float(attribution[index]),
        }


def _edges(scores: Scores) -> list[Row]:
    rows, graph = [], scores.graph
    for names, arrays in scores.checkpoints():
        for family in scores.experiment.measure.corruptions:
            mean = family_mean(arrays, "edges", get_task(names["task"]).families[family])
            order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:EDGES_KEPT]
            for writer, reader in zip(*np.unravel_index(order, mean.shape), strict=True):
                if mean[writer, reader] != 0:
                    rows.append(
                        {
                            **names,
                            "corruption": family,
                            "writer": graph.writers[writer],
                            "reader": graph.readers[reader],
                            "score": float(mean[writer, reader]),
                        }
                    )
    return rows


def _faithfulness(scores: Scores) -> list[Row]:
    rows = []
    for names, arrays in scores.checkpoints():
        for family in scores.experiment.measure.corruptions:
            clean = arrays[f"faithfulness_clean.{family}"].astype(np.float64)
            corrupt = arrays[f"faithfulness_corrupt.{family}"].astype(np.float64)
            drop = float((clean - corrupt).mean())
            refused = near_zero(clean - corrupt)
            metric = arrays[f"faithfulness.{family}"].mean(axis=1, dtype=np.float64)
            for index, fraction in enumerate(scores.experiment.measure.fractions):
                above_empty = float(metric[index] - corrupt.mean())
                rows.append(
                    {
                        **names,
                        "corruption": family,
                        "fraction": fraction,
                        "n_edges": int(arrays[f"n_edges.{family}"][index]),
                        "metric": float(metric[index]),
                        "clean": float(clean.mean()),
                        "corrupt": float(corrupt.mean()),
                        "faithfulness": None if refused else above_empty / drop,
                        "refused": refused or "",
                    }
                )
    return rows


def _controls(scores: Scores) -> list[Row]:
    rows = []
    for names, arrays in scores.checkpoints():
        for control in get_task(names["task"]).controls:
            effect = arrays[f"controls.{control}"]
            rows.append(
                {
                    **names,
                    "control": control,
                    "n": len(effect),
                    **spread("effect", mean_interval(effect)),
                    **spread("size", mean_interval(np.abs(effect))),
                }
            )
    return rows


TABULATED: dict[str, Callable[[Scores], list[Row]]] = {
    "behaviour": _behaviour,
    "placebo": _placebo,
    "nodes": _nodes,
    "edges": _edges,
    "faithfulness": _faithfulness,
    "controls": _controls,
}

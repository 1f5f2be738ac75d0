"""What is read from each checkpoint without any intervention, and its table.

Names of the arrays in ``readings/…safetensors`` (``t`` a task, ``a>b`` two named positions):

- ``t.logit_lens``: ``[layers + 1, prompts]``; ``t.direct``: ``[writers + 1, prompts]``, the last
  row being the constant part, both in logits
- ``t.attention.a>b``: mean attention from a to b, ``[layers, heads, prompts]``
- ``t.copying``, ``t.negative_copying``, ``t.matching.a>b``: ``[layers, heads]``
- ``previous_token``, ``duplicate_token``, ``induction``: on random tokens, ``[layers, heads]``
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from circuitlapse.config import file_label
from circuitlapse.models import Graph, Model
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.measure import Arrays, load_about, load_arrays
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.reading import (
    copying_scores,
    matching_scores,
    read_together,
    repeat_scores,
)
from circuitlapse.records.intervals import mean_intervals
from circuitlapse.tasks import PromptPairs

_REPEATS = ("previous_token", "duplicate_token", "induction")


def read(model: Model, pairs_of: Mapping[str, PromptPairs], seed: int) -> Arrays:
    """Read one checkpoint.

    Args:
        model: The checkpoint.
        pairs_of: Prompts by task; only the clean ones are read.
        seed: Draws the random tokens.

    Returns:
        Arrays by name, as the module's docstring lists them.
    """
    scores = repeat_scores(model, seed=seed)
    on_repeats = (scores.previous, scores.duplicate, scores.induction)
    found: dict[str, torch.Tensor] = dict(zip(_REPEATS, on_repeats, strict=True))
    for task, pairs in pairs_of.items():
        names = [name for name in pairs.positions if name != "END"]
        ways = list(_ways(pairs))
        once = read_together(model, pairs, ways)
        task = file_label(task)
        found[f"{task}.logit_lens"] = once.lens
        found[f"{task}.direct"] = torch.cat([once.direct.writers, once.direct.constant[None]])
        found[f"{task}.copying"] = copying_scores(model, pairs, names)
        found[f"{task}.negative_copying"] = copying_scores(model, pairs, names, negative=True)
        for (a, b), weights in zip(ways, once.attention, strict=True):
            found[f"{task}.attention.{a}>{b}"] = weights
            if torch.equal(_token(pairs, a), _token(pairs, b)):
                found[f"{task}.matching.{a}>{b}"] = matching_scores(model, pairs, a, b)
    return {name: values.cpu().numpy() for name, values in found.items()}


HALVES = ("even", "odd")


def read_halves(model: Model, pairs_of: Mapping[str, PromptPairs], seed: int) -> Arrays:
    """Read one checkpoint on the even and on the odd prompts, each with random tokens of its own.

    Returns:
        Arrays by half and name, such as ``even/induction``.
    """
    found = {}
    for place, half in enumerate(HALVES):
        halved = {task: pairs[place::2] for task, pairs in pairs_of.items()}
        for name, values in read(model, halved, seed + 1 + place).items():
            found[f"{half}/{name}"] = values
    return found


def _ways(pairs: PromptPairs) -> Iterator[tuple[str, str]]:
    """Pairs of named positions of which the second stands to the left in every prompt."""
    for source, query in pairs.positions.items():
        for target, key in pairs.positions.items():
            if bool((key < query).all()):
                yield source, target


def _token(pairs: PromptPairs, name: str) -> torch.Tensor:
    return pairs.clean.gather(1, pairs.positions[name][:, None])


def reading_rows(scores: Scores) -> list[Row]:
    """Every reading of every checkpoint, one row for each component."""
    rows: list[Row] = []
    tasks = {file_label(task): task for task in scores.tasks}
    for arm in scores.experiment.arms():
        for step in scores.experiment.steps():
            content = scores.store.read(plan.readings(arm.name, step))
            graph, names = Graph(**load_about(content)), {**scores.names(arm), "step": step}
            for name, values in sorted(load_arrays(content).items()):
                rows += _rows(graph, names, name, values, tasks)
    return rows


def _rows(
    graph: Graph, names: Row, name: str, values: np.ndarray, tasks: Mapping[str, str]
) -> Iterator[Row]:
    task, reading, positions, *_ = [None, name, ""] if name in _REPEATS else [*name.split("."), ""]
    per_prompt = reading in ("logit_lens", "direct", "attention")
    if reading == "logit_lens":
        components = [(f"resid{layer}", layer, None) for layer in range(len(values))]
    elif reading == "direct":
        nodes = list(_components(graph))
        components = [("input", None, None), *nodes, ("constant", None, None)]
    else:
        components = [node for node in _components(graph) if node[2] >= 0]
    table = values.reshape(len(components), -1)
    intervals = mean_intervals(table.T) if per_prompt else None
    for index, (component, layer, head) in enumerate(components):
        value = {"value": float(table[index, 0]), "value_low": None, "value_high": None}
        yield {
            **names,
            "task": tasks.get(task),
            "reading": reading,
            "positions": positions,
            "component": component,
            "layer": layer,
            "head": head,
            **(value if intervals is None else spread("value", intervals[index])),
        }


def _components(graph: Graph) -> Iterator[tuple[str, int, int]]:
    """Name, layer and number of every node."""
    for node, place in zip(graph.nodes, graph.places, strict=True):
        yield node, place.layer, place.head

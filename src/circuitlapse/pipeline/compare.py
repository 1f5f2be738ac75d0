"""From per-prompt arrays to the comparison of base and tuned model: overlap, fates and grafts."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from circuitlapse.attribution import node_effects
from circuitlapse.compare import (
    EdgeImportance,
    Fates,
    HeadEffects,
    NodeImportance,
    Overlaps,
    Shares,
    edge_overlaps,
    gain_shares,
    graft_values,
    head_fates,
    node_overlaps,
    parameter_groups,
    used_threshold,
)
from circuitlapse.config import Arm
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Graph, Model, logit_differences
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.beside import overlaps_beside
from circuitlapse.pipeline.measure import Arrays, family_mean, load_about, load_arrays
from circuitlapse.pipeline.tabulate import Row, Scores
from circuitlapse.tasks import Item, get_task, tokenize

# The edges' null is shuffled less often: it has 40 times as many entries and is as wide.
_EDGE_PERMUTATIONS = 5


def overlaps_of(scores: Scores, arm: Arm, family: str) -> tuple[Overlaps, Overlaps]:
    """Overlaps of node and of edge importances between both models on both tasks."""
    settings, graph = scores.experiment.compare, scores.graph
    nodes, edges = [], []
    for model, step in (("base", 0), ("tuned", scores.last)):
        for task in scores.tasks:
            at = (arm.name, step, task)
            nodes.append(NodeImportance(model, task, scores.family(*at, "effects", family)))
            mean = scores.family(*at, "edges", family)
            halves = scores.family(*at, "halves", family)
            edges.append(EdgeImportance(model, task, mean, halves))
    return (
        node_overlaps(
            nodes, graph.nodes, seed=settings.seed, permutations=settings.permutations,
            repeats=settings.bootstrap,
        ),
        edge_overlaps(
            edges, graph.writers, graph.readers, graph.edges.numpy(), seed=settings.seed,
            permutations=max(1, settings.permutations // _EDGE_PERMUTATIONS),
        ),
    )  # fmt: skip


def overlap_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``overlap``, at the last step."""
    rows = []
    for arm in scores.experiment.arms():
        for family in scores.experiment.measure.corruptions:
            names = {**scores.names(arm), "step": scores.last, "corruption": family}
            for found in overlaps_of(scores, arm, family):
                rows += [{**names, "beside": "", **asdict(row)} for row in found.rows]
            for beside, found in overlaps_beside(scores, arm, family).items():
                rows += [{**names, "beside": beside, **asdict(row)} for row in found.rows]
    return rows


def _threshold(difference: np.ndarray) -> tuple[float | None, str]:
    """The smallest effect that counts as use, or why there is none."""
    try:
        return used_threshold(difference), ""
    except CircuitlapseError as error:
        return None, str(error)


def fates_of(scores: Scores, arm: Arm, family: str) -> Fates | None:
    """Decide every head's fate from its effects on the test prompts.

    Raises:
        CircuitlapseError: If the base does not do the old task: no effect is then large or small.
    """
    old, new = scores.tasks
    last = scores.last
    columns = [index for index, node in enumerate(scores.graph.nodes) if not node.startswith("m")]

    def effects(name: str, step: int, task: str) -> np.ndarray:
        return scores.family(name, step, task, "effects", family)[:, columns]

    placebos = scores.experiment.noise_placebos(arm)
    measured = HeadEffects(
        heads=[scores.graph.nodes[index] for index in columns],
        base_old=effects(arm.name, 0, old),
        base_new=effects(arm.name, 0, new),
        tuned_old=effects(arm.name, last, old),
        tuned_new=effects(arm.name, last, new),
        placebo_old=np.stack([effects(placebo.name, last, old) for placebo in placebos])
        if placebos
        else None,
    )
    clean, corrupt = (
        scores.family(arm.name, 0, old, name, family) for name in ("clean", "corrupt")
    )
    threshold, _ = _threshold(clean - corrupt)
    return None if threshold is None else head_fates(measured, threshold)


def fate_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``fates``; none where the base does not do the old task."""
    rows = []
    for arm in scores.experiment.arms():
        for family in scores.experiment.measure.corruptions:
            fates = fates_of(scores, arm, family)
            names = {**scores.names(arm), "step": scores.last, "corruption": family}
            rows += [{**names, **asdict(row)} for row in (fates.rows if fates else [])]
    return rows


def graft_arrays(
    models: Mapping[str, Model],
    items: Mapping[str, list[Item]],
    scored: list[Item],
    family: str,
    advance: Callable[[int, int], None],
) -> tuple[Arrays, dict[str, Any]]:
    """Choose groups of heads on validation prompts and score all hybrids on test prompts.

    Args:
        models: ``base``, ``tuned`` and, where there is one, ``placebo``.
        items: Validation items of the old and then of the new task, by task.
        scored: Test items of the new task.
        family: Corruption family behind the choice.
        advance: Called with (hybrids done, hybrids in all).

    Returns:
        The hybrids' logit differences, ``values [subsets, prompts]``, and as metadata the groups'
        heads and sizes, and why no group could be chosen where that is so.
    """
    old_heads, recruited, refused = _choose(models, items, family)
    base, tuned = models["base"], models["tuned"]
    groups = parameter_groups(base.hf, old_heads, recruited)
    new = list(items)[1]
    pairs = tokenize(scored, base.tokenizer, get_task(new).corruptions[0])
    values = graft_values(base, tuned, groups, pairs, advance)
    about = {
        "old_heads": old_heads,
        "recruited_heads": recruited,
        "n_parameters": groups.n_parameters,
        "refused": refused,
    }
    return {"values": values}, about


def _choose(
    models: Mapping[str, Model], items: Mapping[str, list[Item]], family: str
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The old and the recruited heads, by their fates on validation prompts."""
    old, new = items
    graph: Graph = models["base"].graph
    columns = [index for index, node in enumerate(graph.nodes) if not node.startswith("m")]

    def pairs_of(task: str) -> dict[str, Any]:
        tokenizer = models["base"].tokenizer
        return {v: tokenize(items[task], tokenizer, v) for v in get_task(task).families[family]}

    pairs = {task: pairs_of(task) for task in (old, new)}

    def effects(model: Model, task: str) -> np.ndarray:
        found = {f"effects.{v}": node_effects(model, p).numpy() for v, p in pairs[task].items()}
        return family_mean(found, "effects", list(pairs[task]))[:, columns]

    both = [logit_differences(models["base"], pair) for pair in pairs[old].values()]
    difference = np.mean([(clean - corrupt).numpy() for clean, corrupt in both], axis=0)
    threshold, refused = _threshold(difference)
    if threshold is None:
        return (), (), refused
    fates = head_fates(
        HeadEffects(
            heads=[graph.nodes[index] for index in columns],
            base_old=effects(models["base"], old),
            base_new=effects(models["base"], new),
            tuned_old=effects(models["tuned"], old),
            tuned_new=effects(models["tuned"], new),
            placebo_old=effects(models["placebo"], old) if "placebo" in models else None,
        ),
        threshold,
    )
    return fates.old_heads, fates.recruited_heads, ""


def hybrids_of(scores: Scores, arm: Arm) -> tuple[np.ndarray, dict[str, Any]]:
    """The hybrids' logit differences, ``[subsets, prompts]``, and what was noted about them."""
    path = scores.store.read(plan.grafts(arm.name))
    return load_arrays(path)["values"], load_about(path)


def shares_of(scores: Scores, arm: Arm) -> Shares:
    """Divide the gain of one fine-tune among the parameter groups.

    Where no heads could be told apart, no group of heads has a share.
    """
    values, about = hybrids_of(scores, arm)
    settings = scores.experiment.compare
    found = gain_shares(
        values, about["n_parameters"], seed=settings.seed, repeats=settings.bootstrap
    )
    if not about["refused"]:
        return found
    rows = [
        replace(row, share=None, share_low=None, share_high=None)
        if row.group.endswith("heads")
        else row
        for row in found.rows
    ]
    return replace(found, rows=rows)


def heads_of(scores: Scores, arm: Arm) -> dict[str, str]:
    """The heads of each group, in words; empty for groups that hold no heads."""
    _, about = hybrids_of(scores, arm)
    old, recruited = about["old_heads"], about["recruited_heads"]
    heads = [node for node in scores.graph.nodes if not node.startswith("m")]
    others = [head for head in heads if head not in {*old, *recruited}]
    named = {"old_heads": old, "recruited_heads": recruited, "other_heads": others}
    return {group: ", ".join(members) for group, members in named.items()}


def graft_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``grafts``."""
    rows = []
    for arm in scores.experiment.arms():
        names = {**scores.names(arm), "step": scores.last}
        heads = heads_of(scores, arm)
        rows += [
            {**names, "heads": heads.get(row.group, ""), **asdict(row)}
            for row in shares_of(scores, arm).rows
        ]
    return rows

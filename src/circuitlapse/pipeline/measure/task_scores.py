"""What is measured of one task at one checkpoint: behaviour, invariance checks, and circuits.

Everything is kept per prompt, so that any interval can be computed afterwards without the model.
Names of the arrays in ``scores/…safetensors`` (``v`` a counterfactual, ``f`` a family of them):

- ``behaviour.<split>.logit_diff|correct|candidate_correct|spread``: ``[prompts]``
- ``invariance.<check>``: metric on the clean prompt minus metric on the changed one, ``[prompts]``;
  only in full
- ``clean.v``, ``corrupt.v``: metric of the whole model on either prompt, ``[prompts]``; the first
  is the same for every ``v``
- ``effects.v``: exact patching effect of every head and MLP, ``[prompts, nodes]``; only in full
- ``edges.v``: mean attribution, ``[writers, readers]``; ``halves.v``: of even and odd prompts
- ``faithfulness.f``: metric of growing circuits, averaged over the family's variants,
  ``[fractions, prompts]``; ``n_edges.f``: their sizes, ``[fractions]``. Circuits are scored on
  other prompts than those that ranked their edges, whose whole-model metrics are
  ``faithfulness_clean.f`` and ``faithfulness_corrupt.f``, ``[prompts]``; only in full

A checkpoint is measured in full where ``measure.patch_at`` says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.scores import Scores
from circuitlapse.circuits.curve import faithfulness_curve
from circuitlapse.config.experiment import Measure
from circuitlapse.models.engine.behaviour import (
    behaviour,
    corrupt_logit_difference,
    logit_differences,
)
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.pipeline.inputs.prompts import Prompts
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.arrays import Arrays
from circuitlapse.tasks.task import Task


def measure(
    model: Model,
    task: Task,
    prompts: Prompts,
    settings: Measure,
    *,
    circuits: bool,
    in_full: bool = True,
) -> Arrays:
    """Measure one task on one model.

    Args:
        model: The checkpoint.
        task: The task that the prompts are of.
        prompts: Its held-out prompts, tokenised for the model.
        settings: What to measure, on how many prompts.
        circuits: Whether to find circuits too.
        in_full: Whether to patch heads and MLPs exactly too; and, with ``circuits``, to run
            circuits of several sizes and the invariance checks.

    Returns:
        Arrays by name, as the module's docstring lists them.
    """
    arrays, model = Arrays(), model.with_prefix_cache()
    for split in ("test", "test_templates"):
        # Any counterfactual does: behaviour looks at the clean prompts only.
        shown = behaviour(model, prompts.pairs(split, settings.prompts, task.counterfactuals[0]))
        for quantity, values in vars(shown).items():
            arrays[f"behaviour.{split}.{quantity}"] = values

    def pairs(counterfactual: str, skip: int = 0) -> PromptPairs:
        return prompts.pairs("test", settings.circuit_prompts, counterfactual, skip)

    families = {family: task.families[family] for family in settings.counterfactuals}
    if circuits:
        each = [variant for variants in families.values() for variant in variants]
        arrays |= _plain_metrics(model, pairs, each, task.invariance if in_full else ())
    for family, variants in families.items():
        found = {variant: pairs(variant) for variant in variants}
        if circuits:
            scores = _scores_of(model, found, settings, arrays)
            if in_full:
                scoring = [pairs(variant, settings.circuit_prompts) for variant in variants]
                _curve_of(model, scores, scoring, family, settings, arrays)
        if in_full:
            for variant, variant_pairs in found.items():
                effects = node_effects(model, variant_pairs)
                arrays[f"effects.{variant}"] = effects.cpu().numpy()
    return arrays


def about_scores(graph: Graph, task: Task) -> dict[str, Any]:
    """What the tables must know of a task's arrays, so that they need no task."""
    return {
        "graph": asdict(graph),
        "families": {family: list(variants) for family, variants in task.families.items()},
        "invariance": list(task.invariance),
    }


def _plain_metrics(
    model: Model,
    pairs: Callable[[str], PromptPairs],
    variants: Sequence[str],
    invariance: Sequence[str],
) -> Arrays:
    """Run the whole model on the clean prompts, which all pairs share, and on the changed ones."""
    clean, first = logit_differences(model, pairs(variants[0]))
    changed = {variants[0]: first}
    for name in (*variants[1:], *invariance):
        changed[name] = corrupt_logit_difference(model, pairs(name))
    return {
        **{f"invariance.{name}": (clean - changed[name]).numpy() for name in invariance},
        **{f"clean.{name}": clean.numpy() for name in variants},
        **{f"corrupt.{name}": changed[name].numpy() for name in variants},
    }


def _scores_of(
    model: Model, pairs: Mapping[str, PromptPairs], settings: Measure, arrays: Arrays
) -> Scores:
    """Add the scores of one counterfactual type's variants to the arrays; return their mean."""
    found = []
    for variant, variant_pairs in pairs.items():
        scores = attribute(model, variant_pairs, settings.method, settings.ig_steps)
        found.append(scores)
        arrays[f"edges.{variant}"] = scores.mean.cpu().numpy()
        arrays[f"halves.{variant}"] = scores.halves.cpu().numpy()
    return replace(
        found[0],
        mean=torch.stack([scores.mean for scores in found]).mean(dim=0),
        halves=torch.stack([scores.halves for scores in found]).mean(dim=0),
    )


def _curve_of(
    model: Model,
    scores: Scores,
    scoring: Sequence[PromptPairs],
    family: str,
    settings: Measure,
    arrays: Arrays,
) -> None:
    """Add one counterfactual type's faithfulness curve to the arrays."""
    curves = [
        faithfulness_curve(model, scores, variant_pairs, settings.circuit_sizes)
        for variant_pairs in scoring
    ]
    metrics = [torch.stack([point.metric for point in curve]) for curve in curves]
    arrays[f"faithfulness.{family}"] = torch.stack(metrics).mean(dim=0).numpy()
    for side, name in (("clean", "clean"), ("corrupt", "empty")):
        whole = torch.stack([getattr(curve[0], name) for curve in curves])
        arrays[f"faithfulness_{side}.{family}"] = whole.mean(dim=0).numpy()
    arrays[f"n_edges.{family}"] = np.array([point.n_edges for point in curves[0]])

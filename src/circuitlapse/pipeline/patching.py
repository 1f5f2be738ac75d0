"""Patching by site in base and last checkpoint: where in the prompt, through what of a head.

A few prompts do: this is a picture of where information stands and moves, beside the effects of
all heads on all prompts. Each corruption is averaged over the variants of its family. Names of the
arrays in ``patching/…safetensors`` (``t`` a task):

- ``t.resid_pre``, ``t.attn_out``, ``t.mlp_out``: patched at one named position at a time,
  ``[layers, positions, prompts]``
- ``t.head_v``, ``t.head_pattern``: patched at all positions together, ``[layers, heads,
  prompts]``, with key-value heads for ``head_v``

Effects of heads' outputs stand in the scores already; the table takes those of the same prompts.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

import torch

from circuitlapse.attribution import patch_effects
from circuitlapse.attribution.sites import Site, StreamSite
from circuitlapse.models import Model
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.measure import Arrays, load_about, load_arrays
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.records.intervals import mean_intervals
from circuitlapse.tasks import PromptPairs

PROMPTS = 12
SITES: tuple[Site, ...] = (*get_args(StreamSite), "head_v", "head_pattern")


def patching(model: Model, pairs_of: Mapping[str, Sequence[PromptPairs]]) -> Arrays:
    """Patch one checkpoint at each site.

    Args:
        model: The checkpoint.
        pairs_of: By task, the same clean prompts with each variant of a corruption family.

    Returns:
        Clean metric minus patched metric, in logits, by name as the module's docstring says.
    """
    found, model = Arrays(), model.remembering()
    for task, variants in pairs_of.items():
        for site in SITES:
            each = [_effects(model, pairs, site) for pairs in variants]
            found[f"{task}.{site}"] = torch.stack(each).mean(dim=0).numpy()
    return found


def _effects(model: Model, pairs: PromptPairs, site: Site) -> torch.Tensor:
    if site not in get_args(StreamSite):
        return patch_effects(model, pairs, site)[:, :, 0]
    return patch_effects(model, pairs, site, positions=tuple(pairs.positions))[:, 0]


def patching_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``patching``."""
    rows: list[Row] = []
    family = scores.experiment.measure.corruptions[0]
    for arm in scores.experiment.arms():
        for step in filter(scores.experiment.is_end, scores.experiment.steps()):
            content = scores.store.read(plan.patching(arm.name, step))
            positions = load_about(content)["positions"]
            arrays = load_arrays(content)
            for task in scores.tasks:
                n = arrays[f"{task}.head_v"].shape[-1]
                effects = scores.family(arm.name, step, task, "effects", family)[:n]
                by_layer = effects.T.reshape(scores.graph.n_layers, -1, n)
                arrays[f"{task}.head_out"] = by_layer[:, :-1]  # the last column is the MLP's
            for name, values in sorted(arrays.items()):
                task, _, site = name.rpartition(".")
                at = positions[task] if site in get_args(StreamSite) else None
                spreads = mean_intervals(values.reshape(-1, values.shape[-1]).T)
                for place in range(len(spreads)):
                    layer, column = divmod(place, values.shape[1])
                    rows.append(
                        {
                            **scores.names(arm),
                            "step": step,
                            "task": task,
                            "corruption": family,
                            "site": site,
                            "layer": layer,
                            "head": -1 if at else column,
                            "position": at[column] if at else "",
                            **spread("effect", spreads[place]),
                        }
                    )
    return rows

"""Readings of each checkpoint, without any intervention.

Names of the arrays in ``readings/…safetensors`` (``t`` a task, ``a>b`` two named positions):

- ``t.logit_lens``: ``[layers + 1, prompts]``; ``t.direct``: ``[writers + 1, prompts]``, the last
  row being the constant part, both in logits
- ``t.attention.a>b``: mean attention from a to b, ``[layers, heads, prompts]``
- ``t.copying``, ``t.negative_copying``, ``t.matching.a>b``: ``[layers, heads]``
- ``previous_token``, ``duplicate_token``, ``induction``: on random tokens, ``[layers, heads]``

Attention patterns of base and last checkpoint on a few prompts, in one byte per weight.

Array ``t`` (a task) in ``patterns/…safetensors``: ``[prompts, layers, heads, query, key]``, weights
between 0 and 1 in steps of 1/255. The metadata has each task's tokens as text.

Patching by site in base and last checkpoint: where in the prompt, through what of a head.

A few prompts do: this shows where information is and moves. The effects of all heads on all
prompts are in the scores. Each counterfactual is averaged over the variants of its family. Names of
the arrays in ``patching/…safetensors`` (``t`` a task):

- ``t.resid_pre``, ``t.attn_out``, ``t.mlp_out``: patched at one named position at a time,
  ``[layers, positions, prompts]``
- ``t.head_v``, ``t.head_pattern``: patched at all positions together, ``[layers, heads,
  prompts]``, with key-value heads for ``head_v``

Effects of heads' outputs stand in the scores already; the table takes those of the same prompts.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch

from circuitlapse.analyses.readings import HALVES, ON_REPEATS, SITES
from circuitlapse.config.experiment import file_label
from circuitlapse.graph import Site, StreamSite
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.patching import patch_effects
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.attention import attention_of_layers
from circuitlapse.reading.heads import copying_scores, matching_scores
from circuitlapse.reading.read_all import read_all
from circuitlapse.reading.repeats import repeat_scores
from circuitlapse.records.arrays import Arrays


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
    found: dict[str, torch.Tensor] = dict(zip(ON_REPEATS, on_repeats, strict=True))
    for task, pairs in pairs_of.items():
        names = [name for name in pairs.positions if name != "END"]
        ways = list(_ways(pairs))
        once = read_all(model, pairs, ways)
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


def patterns(model: Model, pairs_of: Mapping[str, PromptPairs]) -> tuple[Arrays, dict[str, Any]]:
    """Return every head's attention on the clean prompts, and the prompts' tokens."""
    found: Arrays = {}
    tokens: dict[str, list[list[str]]] = {}
    for task, pairs in pairs_of.items():
        weights = attention_of_layers(model, pairs, range(model.graph.n_layers))
        found[task] = np.rint(255 * weights.clamp(0, 1).numpy()).astype(np.uint8)
        tokens[task] = [
            [model.tokenizer.decode([token]) for token in prompt[:length]]
            for prompt, length in zip(pairs.clean.tolist(), pairs.lengths.tolist(), strict=True)
        ]
    return found, {"tokens": tokens}


def patching(model: Model, pairs_of: Mapping[str, Sequence[PromptPairs]]) -> Arrays:
    """Patch one checkpoint at each site.

    Args:
        model: The checkpoint.
        pairs_of: By task, the same clean prompts with each variant of a counterfactual type.

    Returns:
        Clean metric minus patched metric, in logits, by name as the module's docstring says.
    """
    found, model = Arrays(), model.with_prefix_cache()
    for task, variants in pairs_of.items():
        for site in SITES:
            each = [_effects(model, pairs, site) for pairs in variants]
            found[f"{task}.{site}"] = torch.stack(each).mean(dim=0).numpy()
    return found


def _effects(model: Model, pairs: PromptPairs, site: Site) -> torch.Tensor:
    if site not in get_args(StreamSite):
        return patch_effects(model, pairs, site)[:, :, 0]
    return patch_effects(model, pairs, site, positions=tuple(pairs.positions))[:, 0]

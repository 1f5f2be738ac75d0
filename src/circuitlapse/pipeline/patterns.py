"""Attention patterns of base and last checkpoint on a few prompts, in one byte per weight.

Array ``t`` (a task) in ``patterns/…safetensors``: ``[prompts, layers, heads, query, key]``, weights
between 0 and 1 in steps of 1/255. Beside them, for each task, the prompts' tokens as text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitlapse.models import Model
from circuitlapse.pipeline.measure import Arrays
from circuitlapse.reading import attention_of_layers
from circuitlapse.tasks import PromptPairs

PROMPTS = 2


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

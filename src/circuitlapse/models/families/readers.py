"""Readers of each model family's weights, by ``config.model_type``.

A reader turns a ``transformers`` model into a :class:`~circuitlapse.models.engine.decoder.Decoder`.
The comparison of logits at load detects errors in it.
"""

from collections.abc import Callable
from typing import Any

from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.families.gpt2 import read_gpt2
from circuitlapse.models.families.gpt_neox import read_gpt_neox
from circuitlapse.models.families.llama import read_llama

READERS: dict[str, Callable[[Any], Decoder]] = {
    "gpt2": read_gpt2,
    "gpt_neox": read_gpt_neox,
    "llama": read_llama,
    "mistral": read_llama,
    "qwen2": read_llama,
    "qwen3": read_llama,
}

"""Readers of each model family's weights, by ``config.model_type``.

The comparison of logits at load detects errors in a reader.
"""

from collections.abc import Callable
from typing import Any

from circuitlapse.errors import CircuitlapseError
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


def reader_of(config: Any, what: str) -> Callable[[Any], Decoder]:
    """Return the reader of a model's family; ``what`` names the model in the error.

    Raises:
        CircuitlapseError: If the family is not supported.
    """
    if config.model_type not in READERS:
        raise CircuitlapseError(
            f"{what} belongs to a family that is not supported",
            got=config.model_type,
            fix=f"Supported model types: {', '.join(sorted(READERS))}",
        )
    return READERS[config.model_type]

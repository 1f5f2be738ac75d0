"""A loaded model: the decoder, its graph, its tokenizer and the ``transformers`` model."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.prefix_cache import PrefixCache


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model, ready for circuit analysis.

    Attributes:
        hf: The ``transformers`` model. Changes of its weights in place are seen at once.
        decoder: The engine's view of its weights.
        tokenizer: Its tokenizer, or None where there is none (token ids work without).
    """

    hf: PreTrainedModel
    decoder: Decoder
    tokenizer: Any = None

    @cached_property
    def graph(self) -> Graph:
        """The computational graph of the model."""
        decoder = self.decoder
        kv_heads = decoder.attention[0].n_kv_heads
        return Graph(decoder.n_layers, decoder.n_heads, kv_heads, decoder.parallel)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.W_E.device

    def with_prefix_cache(self) -> "Model":
        """Return a copy that caches keys and values of shared prompt prefixes (up to 128 MiB).

        Use it to measure several counterfactuals of the same prompts. Do not change the weights
        meanwhile.
        """
        return replace(self, decoder=replace(self.decoder, prefix_cache=PrefixCache()))

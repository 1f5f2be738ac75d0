"""What readings read, taken from the literal twin of a model."""

import torch
from torch import Tensor

from twins_engine import Literal


def streams(twin: Literal, tokens: Tensor) -> list[Tensor]:
    """The residual stream before each layer, between its attention and MLP, and at the end."""
    with torch.no_grad():
        _, outputs = twin.plain(tokens)
    x, found = outputs["input"], []
    for layer, block in enumerate(twin.blocks):
        found.append(x)
        for head in range(twin.graph.n_heads):
            x = x + outputs[f"a{layer}.h{head}"]
        x = x + block.bias
        found.append(x)
        x = x + outputs[f"m{layer}"]
    return [*found, x]


def patterns(twin: Literal, tokens: Tensor) -> Tensor:
    """Attention weights, ``[layers, heads, query, key]``."""
    found = []

    def keep(what: str, value: Tensor) -> Tensor:
        if what == "pattern":
            found.append(value)
        return value

    with torch.no_grad():
        for layer, x in enumerate(streams(twin, tokens)[:-1:2]):
            for head in range(twin.graph.n_heads):
                twin.head(layer, head, dict.fromkeys("qkv", x), keep)
    return torch.stack(found).unflatten(0, (-1, twin.graph.n_heads))

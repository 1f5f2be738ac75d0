"""A slow twin of runs with outputs from another run: plain forward hooks on transformers models.

One prompt at a time, in float64, and every query head by itself.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Outputs = dict[str, Tensor]


class Hooked:
    """A transformers model whose heads' and MLPs' outputs can be read and replaced."""

    def __init__(self, hf: Any) -> None:
        self.hf = copy.deepcopy(hf).double().eval()
        config = self.hf.config
        self.n_heads, kind = config.num_attention_heads, config.model_type
        if kind == "gpt2":
            blocks = self.hf.transformer.h
            self.out = [block.attn.c_proj for block in blocks]
            self.weights = [out.weight for out in self.out]
        elif kind == "gpt_neox":
            blocks = self.hf.gpt_neox.layers
            self.out = [block.attention.dense for block in blocks]
            self.weights = [out.weight.T for out in self.out]
        else:
            blocks = self.hf.model.layers
            self.out = [block.self_attn.o_proj for block in blocks]
            self.weights = [out.weight.T for out in self.out]
        self.mlps = [block.mlp for block in blocks]

    @torch.no_grad()
    def run(
        self, tokens: Tensor, replace: Callable[[str, Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Outputs]:
        """Return the last logits and all outputs, before they are replaced."""
        seen: Outputs = {}
        handles = []

        def head_hook(layer: int) -> Callable[[Any, Any, Tensor], Tensor]:
            def hook(_: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
                mixed = inputs[0][0].unflatten(-1, (self.n_heads, -1))
                rows = self.weights[layer].unflatten(0, (self.n_heads, -1))
                change = torch.zeros_like(output[0])
                for head in range(self.n_heads):
                    name = f"a{layer}.h{head}"
                    seen[name] = mixed[:, head] @ rows[head]
                    if replace is not None:
                        change = change + replace(name, seen[name]) - seen[name]
                return output + change

            return hook

        def mlp_hook(layer: int) -> Callable[[Any, Any, Tensor], Tensor]:
            def hook(_: Any, __: Any, output: Tensor) -> Tensor:
                seen[f"m{layer}"] = output[0]
                return output if replace is None else replace(f"m{layer}", output[0])[None]

            return hook

        for layer, (out, mlp) in enumerate(zip(self.out, self.mlps, strict=True)):
            handles.append(out.register_forward_hook(head_hook(layer)))
            handles.append(mlp.register_forward_hook(mlp_hook(layer)))
        try:
            return self.hf(tokens[None]).logits[0, -1], seen
        finally:
            for handle in handles:
                handle.remove()

    def patched(
        self,
        tokens: Tensor,
        other: Outputs,
        nodes: Sequence[str],
        position: int | None = None,
        directions: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the last logits with the nodes' outputs, or a part of them, from another run."""

        def replace(name: str, output: Tensor) -> Tensor:
            if name not in nodes:
                return output
            gap = other[name] - output
            if directions and name in directions:
                gap = gap @ directions[name].double() @ directions[name].double().T
            where = torch.zeros(len(tokens), 1, dtype=torch.double)
            where[slice(None) if position is None else position] = 1
            return output + gap * where

        return self.run(tokens, replace)[0]

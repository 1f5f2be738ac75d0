"""Slow literal twins of patching: one float64 run per number, every value put in by name."""

from typing import Any

import torch
from torch import Tensor

from twins_engine import Literal


class LiteralPatches(Literal):
    """Patching in the model written down edge by edge: one float64 run per number."""

    def __init__(self, hf: Any) -> None:
        super().__init__(hf)
        self.kept: dict[tuple[str, int, int], Tensor] = {}
        self.put: dict[tuple[str, int, int], tuple[slice, Tensor]] = {}

    def keep(self, tokens: Tensor) -> dict[tuple[str, int, int], Tensor]:
        """What a plain run computes: writers' outputs, and heads' q, k, v and pattern."""
        _, outputs = self.plain(tokens)
        return {(name, 0, 0): value for name, value in outputs.items()} | self.kept

    def head(self, layer, head, x, change=lambda _, value: value):
        def through(what: str, value: Tensor) -> Tensor:
            which = self.graph.kv_head(head) if what in "kv" else head
            self.kept[what, layer, which] = value
            part, new = self.put.get((what, layer, which), (slice(0, 0), value))
            value = value.clone()
            value[part] = new[part]
            return value

        return super().head(layer, head, x, through)

    def patched(self, tokens: Tensor, source, site: str, layer: int, slot: int, part) -> Tensor:
        """The last logits with one activation of ``source`` put in."""
        graph, first = self.graph, self.graph.n_before_attention(layer)
        self.put, swapped = {}, range(0)
        if site in ("head_q", "head_k", "head_v", "head_pattern"):
            what = site.removeprefix("head_")
            self.put = {(what, layer, slot): (part, source[what, layer, slot])}
        elif site == "resid_pre":
            swapped = range(first)
        elif site == "attn_out":
            swapped = range(first, first + graph.n_heads)
        else:
            node = first + (graph.n_heads if site == "mlp_out" else slot)
            swapped = range(node, node + 1)
        # The stream's new value is for what comes behind it, not for what made it.
        after = graph.attention_readers(layer).start if site == "resid_pre" else 0

        def reading(reader: str, outputs: dict[str, Tensor]) -> Tensor:
            total = torch.zeros_like(outputs["input"])
            for writer, (name, value) in enumerate(outputs.items()):
                value = value.clone()
                if writer in swapped and graph.readers.index(reader) >= after:
                    value[part] = source[name, 0, 0][part]
                total += value
            return total

        logits = self.run(self.embed(tokens), reading)[0]
        self.put = {}
        return logits

    def paths(
        self, base: Tensor, source: Tensor, senders: set[str], receivers: set[str], mlps: bool
    ) -> Tensor:
        """The last logits of path patching's third run, by its definition."""
        unmoved, theirs = self.plain(base)[1], self.plain(source)[1]

        def second(_: str, outputs: dict[str, Tensor]) -> Tensor:
            values = {}
            for name in outputs:
                frozen = unmoved[name] if not (mlps and name[0] == "m") else outputs[name]
                values[name] = theirs[name] if name in senders else frozen
            return torch.stack(list(values.values())).sum(dim=0)

        logits, outputs = self.run(self.embed(base), second)
        if "logits" in receivers:
            return logits
        recorded = dict(self.kept)
        for layer in range(self.graph.n_layers):
            for slot in "qkv":
                for head in range(self.graph.n_slots(slot)):
                    if f"a{layer}.h{head}<{slot}>" in receivers:
                        key = (slot, layer, head)
                        self.put[key] = (slice(None), recorded[key])

        def third(_: str, now: dict[str, Tensor]) -> Tensor:
            values = [outputs[name] if name in receivers else now[name] for name in now]
            return torch.stack(values).sum(dim=0)

        logits = self.run(self.embed(base), third)[0]
        self.put = {}
        return logits

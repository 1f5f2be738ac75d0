"""Slow literal twins of interventions between two models: one float64 run per prompt."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from twins_engine import Literal

Place = slice | int


class LiteralMix(Literal):
    """A model in which heads' whole outputs, their mixed values or MLPs' outputs are replaced."""

    def __init__(self, hf: Any) -> None:
        super().__init__(hf)
        self.held: Mapping[str, Tensor] = {}
        self.mixed: Mapping[str, tuple[Place, Tensor]] = {}
        self.z: dict[str, Tensor] = {}
        self.scales: Mapping[str, float] = {}
        for layer, block in enumerate(self.blocks):
            block.mlp = self._mlp(f"m{layer}", block.mlp)

    def _mlp(self, name, run):
        def mlp(x: Tensor) -> Tensor:
            out = run(x) * self.scales.get(name, 1.0)
            where, new = self.mixed.get(name, (slice(0, 0), out))
            out = out.clone()
            out[where] = new[where]
            return out

        return mlp

    def head(self, layer, head, x, change=lambda _, value: value):
        name, seen = f"a{layer}.h{head}", {}

        def keep(what: str, value: Tensor) -> Tensor:
            seen[what] = value
            return value

        out = super().head(layer, head, x, keep) * self.scales.get(name, 1.0)
        self.z[name] = seen["pattern"] @ seen["v"]
        if name in self.mixed:
            where, z = self.mixed[name]
            d_head = z.shape[1]
            rows = slice(head * d_head, (head + 1) * d_head)
            out[where] = (z @ self.blocks[layer].W_O[rows])[where]
        return self.held.get(name, out)

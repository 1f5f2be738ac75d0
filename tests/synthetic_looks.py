"""Made-up readings, edges, patches and attention patterns for the report's tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from circuitlapse.records.store import Store

POSITIONS = {
    "ioi2": ["IO", "S", "S_again", "END"],
    "ioi3": ["IO", "S1", "S2", "S1_again", "S2_again", "END"],
}
SITES = ("resid_pre", "attn_out", "mlp_out", "head_out", "head_v", "head_pattern")
EDGES = 200


class Looks:
    """Rows of what a checkpoint shows, for a model of so many layers and heads."""

    def __init__(self, layers: int, heads: int, steps: list[int]) -> None:
        self.layers, self.heads, self.steps = layers, heads, steps
        self.random = Random(1)

    def _interval(self, name: str, value: float, half: float = 0.1) -> dict[str, float]:
        return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}

    def readings(self, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
        rise = names["step"] / max(1, self.steps[-1])
        every = [(f"a{la}.h{he}", la, he) for la in range(self.layers) for he in range(self.heads)]
        for task, positions in POSITIONS.items():
            row = {**names, "task": task, "positions": ""}
            for layer in range(self.layers + 1):
                value = self._interval("value", 4 * rise * layer / self.layers)
                yield {
                    **row,
                    "reading": "logit_lens",
                    "component": f"resid{layer}",
                    "layer": layer,
                    "head": None,
                    **value,
                }
            others = [
                ("input", None, None),
                *((f"m{la}", la, -1) for la in range(self.layers)),
                ("constant", None, None),
            ]
            for component, layer, head in [*others, *every]:
                value = self._interval("value", self.random.gauss(0, 0.4) * (0.3 + rise))
                yield {
                    **row,
                    "reading": "direct",
                    "component": component,
                    "layer": layer,
                    "head": head,
                    **value,
                }
            for key in positions[:-1]:
                for component, layer, head in every:
                    weight = self._interval("value", self.random.random() ** 3, 0.02)
                    yield {
                        **row,
                        "reading": "attention",
                        "positions": f"END>{key}",
                        "component": component,
                        "layer": layer,
                        "head": head,
                        **weight,
                    }
            for component, layer, head in every:
                yield {
                    **row,
                    "reading": "copying",
                    "component": component,
                    "layer": layer,
                    "head": head,
                    "value": self.random.random(),
                    "value_low": None,
                    "value_high": None,
                }

    def patching(self, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for task, positions in POSITIONS.items():
            for site in SITES:
                of_heads = site.startswith("head")
                columns = range(self.heads) if of_heads else positions
                for layer in range(self.layers):
                    for column in columns:
                        value = self._interval("effect", self.random.gauss(0.3, 0.8))
                        yield {
                            **names,
                            "task": task,
                            "counterfactual": "subject",
                            "site": site,
                            "layer": layer,
                            "head": column if of_heads else -1,
                            "position": "" if of_heads else column,
                            **value,
                        }

    def edges(self, names: dict[str, Any], families: dict[str, list[str]]) -> Iterator[dict]:
        for task in families:
            for family in ("subject", "names"):
                drawn: dict[tuple[str, str], float] = {}
                while len(drawn) < min(EDGES, 6 * self.layers * self.heads):
                    drawn[self._edge()] = self.random.gauss(0, 1) ** 3 * 0.1
                for (writer, reader), score in drawn.items():
                    yield {
                        **names,
                        "task": task,
                        "counterfactual": family,
                        "writer": writer,
                        "reader": reader,
                        "score": score,
                    }

    def _edge(self) -> tuple[str, str]:
        layer = self.random.randrange(self.layers)
        reader = self.random.choice(
            [
                f"m{layer}",
                "logits",
                *(f"a{layer}.h{self.random.randrange(self.heads)}<{slot}>" for slot in "qkv"),
            ]
        )
        below = self.layers if reader == "logits" else layer
        writers = [
            "input",
            *(f"m{la}" for la in range(below)),
            *(f"a{la}.h{self.random.randrange(self.heads)}" for la in range(below)),
        ]
        return self.random.choice(writers), reader

    def write_patterns(self, run: Path, seeds: tuple[int, ...], prompt: str) -> None:
        """Write the patterns of base and last checkpoint, as a run does."""
        tokens = {
            "ioi2": [["When", " Ann", " and", " Bob", " sat"]] * 2,
            "ioi3": [prompt.split()[:20]] * 2,
        }
        draws = np.random.default_rng(0)
        for seed in seeds:
            for step in (self.steps[0], self.steps[-1]):
                arrays = {}
                for task, prompts in tokens.items():
                    n = len(prompts[0])
                    weights = np.tril(draws.exponential(size=(2, self.layers, self.heads, n, n)))
                    weights /= weights.sum(-1, keepdims=True)
                    arrays[task] = np.rint(255 * weights).astype(np.uint8)
                name = f"patterns/seed-{seed}/step-{step:05d}.safetensors"
                with Store(run).write(name, "made up") as path:
                    save_file(arrays, path, metadata={"about": json.dumps({"tokens": tokens})})

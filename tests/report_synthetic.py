"""A made-up run for the report's tests: plausible numbers from a seed, and nothing measured."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.config.base import Base
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import Finetune
from circuitlapse.config.toml import to_toml
from circuitlapse.records.documents import (
    Condition,
    Evidence,
    Precondition,
    Provenance,
    Verdict,
)
from circuitlapse.records.store import Store
from circuitlapse.stats.intervals import Estimate
from synthetic_evidence import EvidenceRows
from synthetic_looks import Looks

LAYERS, HEADS = 4, 8
FAMILIES = {
    "ioi2": ["subject", "names"],
    "ioi3": ["subject", "names", "s1_to_io", "s2_to_io"],
}
GROUPS = {
    "old_heads": 0.46,
    "recruited_heads": 0.11,
    "other_heads": 0.1,
    "mlps": 0.25,
    "shared": 0.08,
}
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def write_run(
    run: Path,
    seeds: tuple[int, ...] = (0,),
    steps: int = 240,
    every: int = 8,
    base_path: str | None = None,
    prompt: str = "After John, Mary and Jim went to the store, Mary and John gave a drink to",
    gained: bool = True,
    layers: int = LAYERS,
    heads: int = HEADS,
) -> Path:
    """Write a finished run directory of invented numbers."""
    experiment = Experiment(
        base=Base.model_validate({"path": base_path} if base_path else {"organism": "default"}),
        finetune=Finetune.model_validate({"seeds": seeds, "steps": steps, "save_every": every}),
    )
    run.mkdir(parents=True)
    (run / "experiment.toml").write_text(to_toml(experiment), encoding="utf-8")
    looks = Looks(layers, heads, experiment.steps())
    rows = _Rows(seeds, experiment.steps(), looks)
    evidence = EvidenceRows(rows.seeds, rows.steps, layers, heads)
    for name in SCHEMAS:
        found = getattr(rows, name, None) or getattr(evidence, name, list)
        made = found()
        assert all(row.keys() == SCHEMAS[name].keys() for row in made), name
        put_table(run, name, pl.DataFrame(made, schema=SCHEMAS[name]))
    put(run, "verdict.json", _verdict(steps, gained).model_dump_json())
    put(run, "provenance.json", _provenance().model_dump_json())
    for task, families in FAMILIES.items():
        item = {
            "prompt": prompt if task == "ioi3" else "When Ann and Bob sat down, Ann gave a pen to",
            "answer": " Jim" if task == "ioi3" else " Bob",
            "corrupt": {name: prompt.replace("John", "Kate", 1) for name in families},
        }
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for _ in range(6))
        put(run, f"tasks/{task}.test.jsonl", lines)
    looks.write_patterns(run, seeds, prompt)
    return run


def put(run: Path, name: str, text: str | bytes) -> None:
    """Write an artifact as a run does, with its record."""
    with Store(run).write(name, "made up") as path:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def put_table(run: Path, name: str, frame: pl.DataFrame) -> None:
    """Write a table as a run does, with its record."""
    with Store(run).write(f"tables/{name}.parquet", "made up") as path:
        frame.write_parquet(path)


class _Rows:
    """Rows of every table: each head has an old and a new strength that rises with the step."""

    def __init__(self, seeds: tuple[int, ...], steps: list[int], looks: Looks) -> None:
        self.looks = looks
        self.random = Random(0)
        self.steps = steps
        self.seeds = [
            {"base_seed": 0, "recipe": "default", "finetune_seed": seed} for seed in seeds
        ]
        self.nodes_ = [
            *(
                (f"a{layer}.h{head}", "head", layer, head)
                for layer in range(looks.layers)
                for head in range(looks.heads)
            ),
            *((f"m{layer}", "mlp", layer, -1) for layer in range(looks.layers)),
        ]
        self.strength = {
            node[0]: (self._heavy(), self._heavy() * (1.6 if node[2] else 0.7))
            for node in self.nodes_
        }

    def _heavy(self) -> float:
        return round(self.random.choice((-0.5, 1, 1)) * 10 ** self.random.uniform(-2.3, 0.6), 4)

    def _interval(self, name: str, value: float, half: float) -> dict[str, float]:
        return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}

    def _rise(self, step: int) -> float:
        return 1 / (1 + math.exp(-(step - 70) / 28)) - 1 / (1 + math.exp(70 / 28))

    def _behaviour(self, seed: dict, step: int, task: str, split: str, rise: float) -> dict:
        drop = 0.16 if split == "test_templates" else 0.0
        noise = self.random.gauss(0, 0.008)
        accuracy = (0.985 - drop if task == "ioi2" else 0.37 + (0.6 - drop) * rise) + noise
        return {
            **seed,
            "step": step,
            "task": task,
            "split": split,
            "n": 1024,
            **self._interval("accuracy", accuracy - 0.03, 0.02),
            **self._interval("candidate_accuracy", min(accuracy, 0.99), 0.012),
            **self._interval("logit_diff", 4.4 if task == "ioi2" else 0.2 + 4 * rise, 0.15),
        }

    def behaviour(self) -> list[dict[str, Any]]:
        return [
            {**self._behaviour(seed, step, task, split, self._rise(step)), **self._rises(step)}
            for seed in self.seeds
            for step in self.steps
            for task in FAMILIES
            for split in ("test", "test_templates")
        ]

    def _rises(self, step: int) -> dict[str, Any]:
        logits = self._interval("logits_rise", 4 * self._rise(step), 0.1)
        accuracy = self._interval("accuracy_rise", self._rise(step) / 2, 0.05)
        return logits | accuracy | self._interval("standardised_rise", self._rise(step), 0.1)

    def readings(self) -> list[dict[str, Any]]:
        return [
            row
            for seed in self.seeds
            for step in self.steps
            for row in self.looks.readings({**seed, "step": step})
        ]

    def patching(self) -> list[dict[str, Any]]:
        return [
            row
            for seed in self.seeds
            for step in (self.steps[0], self.steps[-1])
            for row in self.looks.patching({**seed, "step": step})
        ]

    def shortcuts(self) -> list[dict[str, Any]]:
        rules = {"first listed": 0.34, "last mentioned": 0.02, "most frequent answer": 0.05}
        return [
            {
                **seed,
                "step": self.steps[-1],
                "task": task,
                "split": split,
                "rule": rule,
                "n": 1024,
                **self._interval("accuracy", right, 0.02),
                **self._interval("margin", 0.6, 0.03),
            }
            for seed in self.seeds
            for task in FAMILIES
            for split in ("test", "test_templates")
            for rule, right in rules.items()
        ]

    def placebo(self) -> list[dict[str, Any]]:
        return [
            {
                "placebo": "placebo-old-task",
                **self._behaviour(seed, self.steps[-1], task, split, 0.0),
                **self._interval("rise", 0.0, 0.2),
            }
            for seed in self.seeds
            for task in FAMILIES
            for split in ("test", "test_templates")
        ]

    def _effect(self, node: str, task: str, family: str, step: int) -> float:
        old, new = self.strength[node]
        rise = self._rise(step)
        scale = {"subject": 1.0, "names": 0.7, "s1_to_io": 0.9, "s2_to_io": 1.1}[family]
        mean = old * (1 - 0.25 * rise) if task == "ioi2" else (0.6 * old + 0.6 * new) * rise
        return scale * mean + self.random.gauss(0, 0.02)

    def nodes(self) -> list[dict[str, Any]]:
        rows = []
        for seed in self.seeds:
            for step in self.steps:
                for task, families in FAMILIES.items():
                    for family in families:
                        for node, kind, layer, head in self.nodes_:
                            effect = self._effect(node, task, family, step)
                            half = 0.04 + 0.06 * abs(effect)
                            rows.append(
                                {
                                    **seed,
                                    "step": step,
                                    "task": task,
                                    "counterfactual": family,
                                    "node": node,
                                    "kind": kind,
                                    "layer": layer,
                                    "head": head,
                                    **self._interval("effect", effect, half),
                                    "attribution": 0.9 * effect,
                                }
                            )
        return rows

    def edges(self) -> list[dict[str, Any]]:
        return [
            row
            for seed in self.seeds
            for step in self.steps
            for row in self.looks.edges({**seed, "step": step}, FAMILIES)
        ]

    def faithfulness(self) -> list[dict[str, Any]]:
        rows = []
        for seed in self.seeds:
            for step in self.steps:
                for task, families in FAMILIES.items():
                    for family in families[:2]:
                        refused = task == "ioi3" and step < 16
                        bend = self.random.uniform(0.9, 1.2)
                        for fraction in FRACTIONS:
                            value = min(1.0, bend * fraction**0.25 * 1.15)
                            rows.append(
                                {
                                    **seed,
                                    "step": step,
                                    "task": task,
                                    "counterfactual": family,
                                    "fraction": fraction,
                                    "n_edges": int(fraction * 2500),
                                    "metric": 4 * value,
                                    "clean": 4.0,
                                    "corrupt": 0.0,
                                    "faithfulness": None if refused else value,
                                    "not_reported": "clean and corrupt do not differ"
                                    if refused
                                    else None,
                                }
                            )
        return rows

    def invariance(self) -> list[dict[str, Any]]:
        known = (("ioi2", "list_order"), ("ioi3", "subject_order"), ("ioi3", "list_order"))
        return [
            {
                **seed,
                "step": step,
                "task": task,
                "check": check,
                "n": 256,
                **self._interval("effect", self.random.gauss(0, 0.05), 0.12),
                **self._interval("mean_abs_effect", 0.3 + self.random.random(), 0.1),
            }
            for seed in self.seeds
            for step in self.steps
            for task, check in known
        ]

    def overlap(self) -> list[dict[str, Any]]:
        sides = ("base:ioi2", "base:ioi3", "tuned:ioi2", "tuned:ioi3")
        known = [
            (seed, family, unit, left, right)
            for seed in self.seeds
            for family in ("subject", "names")
            for unit in ("nodes", "edges")
            for place, left in enumerate(sides)
            for right in sides[place + 1 :]
        ]
        null = {"null_mean": 0.12, "null_low": -0.1, "null_high": 0.35, "p_value": 0.001}
        return [
            {
                **seed,
                "step": self.steps[-1],
                "counterfactual": family,
                "unit": unit,
                "compared_with": "",
                "left": left,
                "right": right,
                "measure": measure,
                **self._interval("value", self.random.uniform(0.45, 0.9), 0.05),
                **(null if unit == "nodes" else dict.fromkeys(null)),
                "not_reported": "",
            }
            for seed, family, unit, left, right in known
            for measure in ("pearson", "spearman", "weighted_jaccard")
        ]

    def head_changes(self) -> list[dict[str, Any]]:
        rows = []
        last = self.steps[-1]
        for seed in self.seeds:
            for family in ("subject", "names"):
                for node, kind, layer, head in self.nodes_:
                    if kind != "head":
                        continue
                    old, new = self.strength[node]
                    was, now = abs(old) > 0.15, abs(0.6 * (old + new)) > 0.15
                    category = {
                        (False, False): "unused",
                        (False, True): "recruited",
                        (True, False): "retired",
                        (True, True): self.random.choice(
                            ("kept", "strengthened", "weakened", "repurposed")
                        ),
                    }[was, now]
                    row = {
                        **seed,
                        "step": last,
                        "counterfactual": family,
                        "node": node,
                        "layer": layer,
                        "head": head,
                        "category": category,
                        "since": last,
                        "threshold": 0.15,
                        "used_in_base": was,
                        "used_in_tuned": was and now,
                    }
                    for name, task, step in (
                        ("base_old", "ioi2", 0),
                        ("base_new", "ioi3", 0),
                        ("tuned_old", "ioi2", last),
                        ("tuned_new", "ioi3", last),
                        ("placebo_old", "ioi2", 0),
                        ("placebo_new", "ioi3", 0),
                    ):
                        row |= self._interval(name, self._effect(node, task, family, step), 0.06)
                    rows.append(row)
        return rows


def _verdict(last: int, gained: bool) -> Verdict:
    improvement = Estimate(value=3.9, low=3.7, high=4.1)
    if not gained:
        improvement = Estimate(value=0.02, low=-0.05, high=0.09)
    nearest = Condition("same_directions low", 0.47, 0.5, holds=False)
    label = {
        "label": "undetermined" if gained else "no_gain",
        "reason": "The nearest label is reused, which is missed.",
        "nearest": nearest,
        "conditions": (nearest,),
        "survives": {"half": "undetermined", "double": "reused", "without_best": "undetermined"},
        "improvement": improvement,
    }
    return Verdict.model_validate(
        {
            **label,
            "sentence": "The evidence does not decide how the model came to solve ioi3.",
            "says_not": ["It is no evidence against any label."],
            "was_it_there": "Not known: it was not measured.",
            "what_carries_it": "The old-task heads (dependence 0.83 [0.81, 0.85]).",
            "would_change": [f"The nearest mark: {nearest.text()}."],
            "scope": "this run",
            "calibration": "its errors are not known yet",
            "seeds": [{"finetune_seed": 0, **label}],
            "preconditions": [
                Precondition(
                    name="The base solves the old task",
                    holds=True,
                    table="behaviour",
                    where={"task": "ioi2", "split": "test", "step": 0},
                    detail="candidate accuracy 0.99, at least 0.98 asked",
                ),
                Precondition(
                    name="The base does not yet solve the new task",
                    holds=True,
                    detail="candidate accuracy 0.37, within 0.25 to 0.50",
                ),
                Precondition(
                    name="The improvement is clear of zero",
                    holds=gained,
                    detail="95 % interval of the logit difference",
                ),
            ],
            "evidence": [
                Evidence(
                    statement="The old circuit in the base resembles the new one after "
                    "fine-tuning, r = 0.78, above its null.",
                    table="overlap",
                    where={"step": last, "measure": "pearson", "unit": "nodes"},
                ),
                Evidence(
                    statement="Head 1.0 was strengthened.",
                    table="head_changes",
                    where={"step": last, "node": "a1.h0"},
                ),
                Evidence(
                    statement="Head 2.3 was recruited.",
                    table="head_changes",
                    where={"node": "a2.h3"},
                ),
            ],
        }
    )


def _provenance() -> Provenance:
    return Provenance(
        circuitlapse="0.1.0",
        started="2026-01-01T00:00:00Z",
        command="circuitlapse run experiment.toml",
        platform="Linux-6 x86_64, 2 cores",
        python="3.11.2",
        libraries={"torch": "2.13.0", "transformers": "5.23.0"},
        config_sha256="0" * 64,
        base={"recipe_sha256": "1" * 64, "old_accuracy": 0.99, "parameters": 211_000},
        seconds={"finetune seed-0": 14.2, "circuits step-0": 2.5},
    )

"""Made-up rows of the evidence tables, for the report's tests: nothing here was measured."""

from dataclasses import replace
from random import Random
from typing import Any

import polars as pl

from circuitlapse.report.series.run_records import RunRecords

ROLES = ("mover", "negative mover", "induction", "duplicate token", "previous token", "reader")
Row = dict[str, Any]


class EvidenceRows:
    """Rows by table, for every seed."""

    def __init__(self, seeds: list[Row], steps: list[int], layers: int, heads: int) -> None:
        self.seeds, self.steps = seeds, steps
        self.heads = [
            (f"a{layer}.h{head}", layer, head) for layer in range(layers) for head in range(heads)
        ]
        self.mlps = [(f"m{layer}", layer, -1) for layer in range(layers)]
        self.random = Random(1)

    def _around(self, name: str, value: float, half: float = 0.15) -> Row:
        return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}

    def _ended(self) -> list[Row]:
        return [{**seed, "step": self.steps[-1]} for seed in self.seeds]

    def carriers(self) -> list[Row]:
        measured = {
            ("", "variable_effect"): 1.2,
            ("old", "dependence"): 0.8,
            ("early", "same_directions"): 0.7,
            ("old", "sufficiency"): 0.4,
            ("new", "sufficiency"): 0.1,
        }
        return [
            {
                **seed,
                "heads": heads,
                "names": "a0.h0 a2.h3" if heads else "",
                "measure": measure,
                **self._around("value", value, 0.05),
                "groups": [0.2, 0.3],
                "n_random": 2,
                "null_min": 0.2,
                "null_max": 0.3,
                "above_groups": None,
                "not_reported": "",
            }
            for seed in self._ended()
            for (heads, measure), value in measured.items()
        ]

    def weights(self) -> list[Row]:
        parts = ("old_heads", "new_heads", "other_heads", "mlps", "shared", "layer 0", "layer 1")
        return [
            {
                **seed,
                "part": part,
                "n_parameters": 1000 * (number + 1),
                **self._around("put_back", 0.5 * number),
                **self._around("grafted", 0.2 * number),
            }
            for seed in self._ended()
            for number, part in enumerate(parts)
        ]

    def dynamics(self) -> list[Row]:
        rows = []
        families = {
            "ioi2": ["subject", "names"],
            "ioi3": ["subject", "names", "s1_to_io", "s2_to_io"],
        }
        for seed in self._ended():
            for task, names in families.items():
                for family in names:
                    for node, layer, head in self.heads:
                        change = self.random.gauss(0, 0.8)
                        sign_changed = self.random.random() < 0.06
                        rows.append(
                            {
                                **seed,
                                "task": task,
                                "counterfactual": family,
                                "kind": "head",
                                "node": node,
                                "layer": layer,
                                "head": head,
                                "before": 0.2,
                                "after": 0.2 + change,
                                **self._around("change", change),
                                "step_of_90": float(self.random.choice(self.steps[1:])),
                                "sign_changed": sign_changed,
                                "seeds_with_sign_change": int(sign_changed),
                                "behaviour_correlation": 0.7,
                                "epoch_steps": 32,
                            }
                        )
                rows.append(
                    {
                        **dict.fromkeys(rows[0]),
                        **seed,
                        "task": task,
                        "counterfactual": "",
                        "kind": "behaviour",
                        "node": "",
                        "before": 0.1,
                        "after": 3.9,
                        **self._around("change", 3.8),
                        "sign_changed": False,
                        "epoch_steps": 32,
                        "step_of_90": float(
                            self.steps[-2 if task == "ioi3" else len(self.steps) // 2]
                        ),
                    }
                )
        return rows

    def roles(self) -> list[Row]:
        rows = []
        for seed in self.seeds:
            for task, io in (("ioi2", "END>IO"), ("ioi3", "END>S1")):
                for index, (node, layer, head) in enumerate(self.heads):
                    role = ROLES[index % len(ROLES)] if index % 3 else "none"
                    turn = self.random.choice(self.steps[1:])
                    for step in self.steps:
                        now = "mover" if index % 7 == 0 and step >= turn else role
                        distance = 0.0 if step == 0 else abs(self.random.gauss(0.3, 0.2))
                        rows.append(
                            {
                                **seed,
                                "step": step,
                                "task": task,
                                "node": node,
                                "layer": layer,
                                "head": head,
                                "role": now,
                                "since": turn if now != role and step >= turn else 0,
                                "attends": io if now != "none" else "",
                                "attention": 0.6,
                                "copying": 0.8,
                                "suppressing": 0.1,
                                "previous": 0.0,
                                "duplicate": 0.1,
                                "induction": 0.0,
                                "q_reads": "m0",
                                "q_share": 0.4,
                                "k_reads": "input",
                                "k_share": 0.3,
                                "v_reads": "a0.h1" if layer else "",
                                "v_share": 0.2,
                                "distance": distance,
                                "noise": 0.2,
                                "changed": distance > 0.2,
                                "features": "END>IO +0.41, copying -0.30" if step else "",
                                "source": "a2.h3" if index == 5 and step else "",
                                "approach": 0.2 if index == 5 and step else None,
                                "moves_p": 0.03,
                            }
                        )
        return rows

    def elicitable(self) -> list[Row]:
        rows = []
        reach = {
            "everything": (1.0, 200_000),
            "old_circuit": (0.9, 30_000),
            "mlps": (0.8, 130_000),
            "biases": (0.4, 3_000),
            "rank_1": (0.7, 5_000),
        }
        controls = [(name, 0, *what) for name, what in reach.items()]
        controls += [("random_set", repeat, 0.5 + 0.02 * repeat, 30_000) for repeat in range(10)]
        for control, repeat, most, size in controls:
            for step in self.steps:
                share = most * min(1, step / 100)
                rows.append(
                    {
                        **self.seeds[0],
                        "control": control,
                        "repeat": repeat,
                        "parts": "",
                        "n_parameters": size,
                        "step": step,
                        "examples": None,
                        "n": 256,
                        **self._around("candidate_accuracy", 0.35 + 0.6 * share, 0.03),
                        **self._around("logit_diff", 0.2 + 4 * share),
                        **self._around("share", share),
                        "step_of_90": 96 if most >= 0.9 else None,
                        "not_reported": "",
                    }
                )
        rows += [
            {
                **self.seeds[0],
                "control": "few_shot",
                "repeat": 0,
                "parts": "",
                "n_parameters": None,
                "step": None,
                "examples": examples,
                "n": 256,
                **self._around("candidate_accuracy", 0.35 + 0.01 * examples, 0.05),
                **self._around("logit_diff", 0.2 + 0.1 * examples),
                **self._around("share", 0.02 * examples),
                "step_of_90": None,
                "not_reported": "",
            }
            for examples in (0, 2, 4, 8)
        ]
        return rows

    def training(self) -> list[Row]:
        tasks = {"train": "ioi3", "validation": "ioi3", "old_task": "ioi2"}
        return [
            {
                **seed,
                "step": step,
                "split": split,
                "task": task,
                "n": 128,
                **self._around("loss", (0.4 if split == "old_task" else 5 / (1 + step / 20)), 0.05),
                **self._around("accuracy", min(0.97, 0.3 + step / 100), 0.02),
                **self._around("end_of_text", 0.01, 0.01),
                "flags": "overfit,old_task_lost" if step > 60 and split == "validation" else "",
            }
            for seed in self.seeds
            for step in self.steps
            for split, task in tasks.items()
        ]

    def comparisons(self) -> list[Row]:
        rows = []
        for seed in self._ended():
            rights = [
                *(
                    ("placebo", f"shuffled_answers-{n}:{task}")
                    for n in range(3)
                    for task in ("ioi2", "ioi3")
                ),
                ("unrelated_task", "base:induction"),
                ("unrelated_task", "tuned:induction"),
            ]
            pairs = [
                (left, kind, right)
                for left in ("base:ioi2", "tuned:ioi3")
                for kind, right in rights
                if kind != "unrelated_task" or left.split(":")[0] == right.split(":")[0]
            ]
            rows += [
                {
                    **seed,
                    "counterfactual": "subject",
                    "unit": "nodes",
                    "compared_with": kind,
                    "left": left,
                    "right": right,
                    "measure": measure,
                    **self._around("value", self.random.uniform(0.2, 0.9), 0.05),
                    "null_mean": 0.1,
                    "null_low": -0.1,
                    "null_high": 0.35,
                    "p_value": 0.01,
                    "not_reported": "",
                }
                for left, kind, right in pairs
                for measure in ("pearson", "spearman", "weighted_jaccard")
            ]
        return rows


def with_evidence(records: RunRecords, layers: int = 4, heads: int = 8) -> RunRecords:
    """Add every evidence table to a made-up run, also those that it was not written with."""
    columns = ["base_seed", "recipe", "finetune_seed"]
    seeds = records.tables["behaviour"].select(columns).unique(maintain_order=True).to_dicts()
    steps = records.experiment.steps()
    rows = EvidenceRows(seeds, steps, layers, heads)
    added = {
        name: pl.DataFrame(getattr(rows, name)(), infer_schema_length=None)
        for name in (
            "roles",
            "weights",
            "dynamics",
            "elicitable",
            "training",
        )
    }
    overlap, changes = records.tables["overlap"], records.tables["head_changes"]
    nodes = overlap.filter(pl.col("unit") == "nodes")
    earlier = [pl.lit(step, dtype=pl.Int64) for step in steps[:-1]]
    comparisons = pl.DataFrame(rows.comparisons(), infer_schema_length=None)
    added["overlap"] = pl.concat(
        [*(nodes.with_columns(step=step) for step in earlier), overlap, comparisons],
        how="diagonal_relaxed",
    )
    kept = pl.lit("kept").alias("category")
    added["head_changes"] = pl.concat(
        [*(changes.with_columns(kept, step=step) for step in earlier), changes]
    )
    return replace(records, tables={**records.tables, **added})

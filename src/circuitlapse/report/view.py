"""The page's text and tables: everything that reads without JavaScript."""

import json
import re
from difflib import SequenceMatcher
from typing import Any

import polars as pl

from circuitlapse.report.data import RunRecords
from circuitlapse.report.definitions import DEFINITIONS
from circuitlapse.report.evidence import worded
from circuitlapse.report.names import (
    CAUSES,
    FATES,
    GROUPS,
    LABELS,
    MEASURES,
    QUANTITIES,
    SECTIONS,
    SPLITS,
    SUBJECTS,
    node_label,
    side_label,
    task_title,
)
from circuitlapse.report.numbers import interval_at, number
from circuitlapse.report.payload import FATE_COLUMNS, families, of_the_base
from circuitlapse.report.recipes import recipe_rows
from circuitlapse.report.roles import role_rows
from circuitlapse.report.shares import share_bar

_WORD = re.compile(r"\w+|\W")


def view(records: RunRecords) -> dict[str, Any]:
    """Word everything on the page that is not drawn. All of it is escaped by the template."""
    tasks = records.experiment.tasks
    shared = families(records)["shared"]
    seeds = records.tables["behaviour"].select("base_seed", "finetune_seed").unique().sort(pl.all())
    numbers, *others = (_of_seed(records, row, shared) for row in seeds.rows())
    return {
        "name": records.name,
        "old": task_title(tasks.old),
        "new": task_title(tasks.new),
        "verdict": records.verdict,
        "sentence": LABELS[records.verdict.label],
        "bar": share_bar(records.verdict),
        "causes": CAUSES,
        "evidence": _claims(records),
        "setting": _setting(records),
        **numbers,
        "seeds": seeds.height,
        "others": others,
        "family": shared[0] if shared else None,
        "fate_signs": FATES,
        "behaviour_rows": _behaviour_rows(records),
        "control_rows": _control_rows(records.tables["controls"]),
        "placebo_rows": _placebo_rows(records),
        "tables": worded(records.tables),
        "role_rows": role_rows(records),
        "recipes": recipe_rows(records),
        "prompts": [
            {"title": task_title(task), "name": task, "items": [_sample(item) for item in items]}
            for task, items in records.prompts.items()
        ],
        "definitions": DEFINITIONS,
        "config": records.experiment_text,
        "provenance": records.provenance,
        "seconds": sum(records.provenance.seconds.values()),
    }


def _of_seed(records: RunRecords, row: tuple[int, int], shared: list[str]) -> dict[str, Any]:
    """The tables that the page's script refills when another seed is chosen."""
    seed = (pl.col("base_seed") == row[0]) & (pl.col("finetune_seed") == row[1])
    chosen = seed & (pl.col("corruption") == (shared[0] if shared else ""))
    return {
        "seeds": f"{row[0]}.{row[1]}",
        "overlap_rows": _overlap_rows(records, chosen),
        "fate_rows": _fate_rows(records.tables["fates"].filter(chosen)),
        "graft_rows": _graft_rows(records.tables["grafts"].filter(seed)),
        "faithfulness_rows": _faithfulness_rows(records.tables["faithfulness"].filter(chosen)),
    }


def _claims(records: RunRecords) -> list[tuple[str, list[dict[str, str]]]]:
    """The verdict's statements under what they speak about, in the verdict's own order."""
    found: dict[str, list[dict[str, str]]] = {}
    for evidence in records.verdict.evidence:
        section = SECTIONS.get(evidence.table, f"table-{evidence.table}")
        found.setdefault(SUBJECTS.get(evidence.table, "Further"), []).append({
            "statement": evidence.statement, "section": section,
            "name": section.removeprefix("table-"), "where": json.dumps(evidence.where),
        })  # fmt: skip
    return list(found.items())


def _setting(records: RunRecords) -> str:
    """Say what was fine-tuned on what, in a sentence or two."""
    experiment = records.experiment
    base = (
        f"the model organism “{experiment.base.organism}” (pretraining seed {experiment.base.seed})"
        if experiment.base.organism
        else f"{experiment.base.path}"
    )
    tune = experiment.finetune
    seeds = len(tune.seeds)
    steps = records.tables["behaviour"]["step"].n_unique()
    mixed = (
        f", with {tune.old_fraction:.0%} {task_title(experiment.tasks.old)} mixed in"
        if tune.old_fraction
        else ""
    )
    return (
        f"The base is {base}. It was fine-tuned on {task_title(experiment.tasks.new)}{mixed} for "
        f"{tune.steps} steps of {tune.batch_size} prompts, with {seeds} "
        f"seed{'s' if seeds > 1 else ''}, and was measured at {steps} checkpoints."
    )


def _sample(item: dict[str, Any]) -> dict[str, Any]:
    """Split each corrupt prompt into stretches that are as in the clean one, or changed."""
    return {
        "prompt": item["prompt"],
        "answer": item["answer"],
        "corrupt": {
            name: _changes(item["prompt"], str(text)) for name, text in item["corrupt"].items()
        },
    }


def _changes(clean: str, corrupt: str) -> list[tuple[bool, str]]:
    words, changed = _WORD.findall(clean), _WORD.findall(corrupt)
    matcher = SequenceMatcher(None, words, changed, autojunk=False)
    return [
        (kind != "equal", "".join(changed[start:end]))
        for kind, _, _, start, end in matcher.get_opcodes()
        if end > start
    ]


def _held_out(split: str) -> str:
    """Name what a split holds out, for a column headed “held out”."""
    return SPLITS.get(split, split).removeprefix("held-out ")


def _behaviour_rows(records: RunRecords) -> list[dict[str, Any]]:
    """Base and last checkpoint, for each seed, task and split."""
    frame = records.tables["behaviour"]
    tasks = records.experiment.tasks
    rows = []
    keys = ["base_seed", "finetune_seed", "task", "split"]
    for (base_seed, tune_seed, task, split), part in frame.group_by(keys, maintain_order=True):
        part = part.sort("step")
        ends = (part.row(0, named=True), part.row(-1, named=True))
        rows.append(
            {
                "seeds": f"{base_seed}.{tune_seed}",
                "task": task_title(str(task)),
                "role": {tasks.old: "old", tasks.new: "new"}.get(str(task), ""),
                "split": _held_out(str(split)),
                "n": ends[0]["n"],
                "last": ends[1]["step"],
                "cells": [
                    interval_at(end, name)
                    for name in ("accuracy_among", "accuracy", "logit_diff")
                    for end in ends
                ],
            }
        )
    return rows


def _overlap_rows(records: RunRecords, chosen: pl.Expr) -> list[list[Any]]:
    """Every overlap of one seed and family at the last step that has any."""
    frame = records.tables["overlap"].filter(chosen, pl.col("beside") == "")
    tasks = records.experiment.tasks
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    return [
        [
            row["unit"],
            MEASURES.get(row["measure"], row["measure"]),
            *(
                side_label(row[side], tasks.old, tasks.new).replace(":", ", ")
                for side in ("left", "right")
            ),
            interval_at(row, "value"),
            number(row["ceiling"]),
            f"{number(row['null_mean'])} [{number(row['null_low'])}, {number(row['null_high'])}]",
            number(row["p_value"], 3),
        ]
        for row in frame.sort("unit", "measure", maintain_order=True).iter_rows(named=True)
    ]


def _fate_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """One row per head: the used ones first, strongest first."""
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    rows = sorted(
        frame.iter_rows(named=True),
        key=lambda row: (
            row["fate"] == "unused",
            -max(abs(row[name] or 0) for name in FATE_COLUMNS[:4]),
        ),
    )
    return [
        {
            "label": node_label(row["node"]),
            "fate": row["fate"],
            "sign": FATES.get(row["fate"], (row["fate"][:1], ""))[0],
            "cells": [interval_at(row, name) for name in FATE_COLUMNS],
        }
        for row in rows
    ]


def _graft_rows(frame: pl.DataFrame) -> list[list[Any]]:
    frame = of_the_base(frame)
    return [
        [
            GROUPS.get(row["group"], row["group"]),
            QUANTITIES.get(row["quantity"], row["quantity"]),
            f"{row['n_parameters']:,}",
            interval_at(row, "gain"),
            interval_at(row, "share"),
        ]
        for row in frame.iter_rows(named=True)
    ]


def _faithfulness_rows(frame: pl.DataFrame) -> list[list[Any]]:
    """The curve of both tasks at the last step, or why there is none."""
    frame = frame.filter(pl.col("step") == pl.col("step").max())
    return [
        [
            task_title(row["task"]),
            f"{row['n_edges']:,}",
            f"{100 * row['fraction']:.3g}\u202f%",
            number(row["metric"]),
            number(row["clean"]),
            number(row["corrupt"]),
            number(row["faithfulness"]) if row["faithfulness"] is not None else row["refused"],
        ]
        for row in frame.sort("task", "fraction").iter_rows(named=True)
    ]


def _control_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Each control at the base and at the last step, for every seed."""
    keys = ["base_seed", "finetune_seed", "task", "control"]
    rows = []
    for (base_seed, tune_seed, task, control), part in frame.group_by(keys, maintain_order=True):
        part = part.sort("step")
        ends = (part.row(0, named=True), part.row(-1, named=True))
        rows.append(
            {
                "task": task_title(str(task)),
                "control": str(control).replace("_", " "),
                "seeds": f"{base_seed}.{tune_seed}",
                "n": ends[0]["n"],
                "cells": [interval_at(end, "size") for end in ends],
            }
        )
    return rows


def _placebo_rows(records: RunRecords) -> list[dict[str, Any]]:
    """Each placebo beside the base and the last checkpoint of the same seed, task and split."""
    keys = ("base_seed", "finetune_seed", "task", "split")
    base: dict[tuple, dict[str, Any]] = {}
    tuned: dict[tuple, dict[str, Any]] = {}
    for row in records.tables["behaviour"].sort("step").iter_rows(named=True):
        key = tuple(row[name] for name in keys)
        base.setdefault(key, row)
        tuned[key] = row
    rows = []
    for row in records.tables["placebo"].iter_rows(named=True):
        key = tuple(row[name] for name in keys)
        compared = (base.get(key), row, tuned.get(key))
        rows.append(
            {
                "placebo": re.sub(r"[-_]", " ", row["placebo"].removeprefix("placebo-")),
                "seeds": f"{row['base_seed']}.{row['finetune_seed']}",
                "task": task_title(row["task"]),
                "split": _held_out(row["split"]),
                "cells": [
                    interval_at(each, name) if each else "\u2013"
                    for name in ("accuracy_among", "logit_diff")
                    for each in compared
                ],
            }
        )
    return rows

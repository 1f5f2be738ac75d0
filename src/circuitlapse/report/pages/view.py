"""The page's text and tables, readable without JavaScript, and the bar of the verdict's shares."""

import json
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

import polars as pl

from circuitlapse.analyses.registry import BY_NAME
from circuitlapse.config.experiment import Experiment
from circuitlapse.config.finetune import ONLY
from circuitlapse.heads.in_words import heads_in_words
from circuitlapse.records.calibration import released
from circuitlapse.report.pages.answer import bits, carried
from circuitlapse.report.pages.rows import (
    behaviour_rows,
    change_rows,
    faithfulness_rows,
    invariance_rows,
    overlap_rows,
    placebo_rows,
)
from circuitlapse.report.series.checkpoint_details import role_rows
from circuitlapse.report.series.counts import counts
from circuitlapse.report.series.labels import (
    CATEGORIES,
    DEFINITIONS,
    task_title,
)
from circuitlapse.report.series.payload import families
from circuitlapse.report.series.recipes import recipe_rows
from circuitlapse.report.series.run_records import RunRecords
from circuitlapse.report.series.sections import shown_in, table_descriptions

_WORD = re.compile(r"\w+|\W")


def view(records: RunRecords) -> dict[str, Any]:
    """Return all text of the page that is not in a drawing. The template escapes it."""
    tasks = records.experiment.tasks
    shared = families(records)["shared"]
    seeds = records.tables["behaviour"].select("base_seed", "finetune_seed").unique().sort(pl.all())
    numbers, *others = (_of_seed(records, row, shared) for row in seeds.rows())
    return {
        "name": records.name,
        "old": task_title(tasks.old),
        "new": task_title(tasks.new),
        "verdict": records.verdict,
        "evidence": _claims(records),
        "checks": _checks(records),
        "carriers_link": _link("carriers", {}),
        "bits": bits(records.tables["bits"]),
        "carried": carried(records.tables["carriers"]),
        "heads_in_words": _heads_in_words(records),
        "setting": _setting(records),
        **numbers,
        "seeds": seeds.height,
        "others": others,
        "family": shared[0] if shared else None,
        "category_signs": CATEGORIES,
        "behaviour_rows": behaviour_rows(records),
        "invariance_rows": invariance_rows(records.tables["invariance"]),
        "placebo_rows": placebo_rows(records),
        "tables": table_descriptions(records.tables),
        "role_rows": role_rows(records),
        "recipes": recipe_rows(records),
        **counts(released()),
        "prompts": [
            {"title": task_title(task), "name": task, "items": [_sample(item) for item in items]}
            for task, items in records.prompts.items()
        ],
        "definitions": DEFINITIONS,
        "config": records.experiment_text,
        "provenance": records.provenance,
        "seconds": sum(records.provenance.seconds.values()),
    }


def _heads_in_words(records: RunRecords) -> list[str]:
    """The heads that matter most, of the first fine-tune under the first counterfactual type."""
    experiment = records.experiment
    family, seed = experiment.measure.counterfactuals[0], experiment.training_runs()[0].seed
    changes = records.tables["head_changes"].filter(
        pl.col("counterfactual") == family, pl.col("finetune_seed") == seed
    )
    last = experiment.steps()[-1]
    readings = records.tables["readings"].filter(
        pl.col("finetune_seed") == seed, pl.col("step").is_in([0, last])
    )
    tasks = experiment.tasks.old, experiment.tasks.new
    return heads_in_words(changes.to_dicts(), readings.to_dicts(), tasks, last)


def _of_seed(records: RunRecords, row: tuple[int, int], shared: list[str]) -> dict[str, Any]:
    """The tables that the page's script refills when another seed is chosen."""
    seed = (pl.col("base_seed") == row[0]) & (pl.col("finetune_seed") == row[1])
    chosen = seed & (pl.col("counterfactual") == (shared[0] if shared else ""))
    return {
        "seeds": f"{row[0]}.{row[1]}",
        "overlap_rows": overlap_rows(records, chosen),
        "head_changes_rows": change_rows(records.tables["head_changes"].filter(chosen)),
        "faithfulness_rows": faithfulness_rows(records.tables["faithfulness"].filter(chosen)),
    }


def _claims(records: RunRecords) -> list[tuple[str, list[dict[str, str]]]]:
    """The verdict's statements by subject, in the verdict's order."""
    found: dict[str, list[dict[str, str]]] = {}
    for evidence in records.verdict.evidence:
        found.setdefault(BY_NAME[evidence.table].subject, []).append(
            {"statement": evidence.statement, **_link(evidence.table, evidence.where)}
        )
    return list(found.items())


def _checks(records: RunRecords) -> list[dict[str, Any]]:
    """The required checks, with links to their tables."""
    return [
        {
            "name": check.name,
            "holds": check.holds,
            "detail": check.detail,
            "link": _link(check.table, check.where) if check.table else None,
        }
        for check in records.verdict.preconditions
    ]


def _link(table: str, where: Mapping[str, str | int]) -> dict[str, str]:
    """The page's link to a table and its rows."""
    section = shown_in(table) or f"table-{table}"
    name = section.removeprefix("table-")
    return {"section": section, "name": name, "where": json.dumps(dict(where))}


def _setting(records: RunRecords) -> str:
    """Name the base, the task and the recipe of the fine-tune in a sentence or two."""
    experiment = records.experiment
    base = _base(experiment)
    steps = records.tables["behaviour"]["step"].n_unique()
    if experiment.checkpoints:
        return (
            f"The base is {base}. How it was fine-tuned is not known. {steps} checkpoints, "
            "including the base, were measured."
        )
    tune = experiment.finetune.recipes()[records.recipe]
    seeds = len(experiment.finetune.seeds)
    mixed = (
        f", with {tune.replay_fraction:.0%} {task_title(experiment.tasks.old)} mixed in"
        if tune.replay_fraction
        else ""
    )
    only = tune.train_only if isinstance(tune.train_only, str) else ", ".join(tune.train_only)
    alone = f", with only {only.replace('_', ' ')} trained," if only else ""
    recipe = "" if records.recipe == ONLY else f" by the recipe “{records.recipe}”"
    return (
        f"The base is {base}. It was fine-tuned on {task_title(experiment.tasks.new)}{recipe}"
        f"{mixed}{alone} for {tune.steps} steps of {tune.batch_size} prompts, with {seeds} "
        f"seed{'s' if seeds > 1 else ''}, and was measured at {steps} checkpoints."
    )


def _base(experiment: Experiment) -> str:
    base = experiment.base
    if not base.organism:
        return f"{base.path}"
    return f"the model organism “{base.organism}” (pretraining seed {base.seed})"


def _sample(item: dict[str, Any]) -> dict[str, Any]:
    """Split each counterfactual into parts that are changed or as in the clean prompt."""
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

"""How fine-tunes went, and what restricted ones and solved examples reach; never in a share.

Control fine-tunes as curves, and solved examples before the prompt.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from circuitlapse.analyses.analysis import Analysis, RunData, Section
from circuitlapse.config.controls import trained
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays, load_about, load_arrays
from circuitlapse.records.columns import STEP, TASK, TRAINING_RUN, Row, integer, interval, text
from circuitlapse.records.figures import Figures, flagged
from circuitlapse.records.layout import FEW_SHOT, curve
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.stats.ratios import divide, logit_rounding

EVERYTHING = "everything"
_POOL = 200  # training items that solved examples are drawn from
_REACHED = 0.9  # of the improvement: as good as the whole fine-tune


def _kept(scores: RunData, name: str) -> list[dict[str, Any]]:
    rows = json.loads(scores.store.read(name))
    return [
        {k: Estimate(**v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows
    ]


def elicitable_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``elicitable``."""
    experiment, rows = scores.experiment, []
    for training_run in experiment.training_runs():
        whole = _whole(scores, training_run)
        rows += _curve_rows(scores, training_run, whole, whole, EVERYTHING, 0, {})
        if training_run not in experiment.control_runs():
            continue
        for control, repeat in trained(experiment.controls):
            content = scores.store.read(curve(training_run.name, control, repeat))
            about, arrays = load_about(content), load_arrays(content)
            points = {
                step: {name: values[index] for name, values in arrays.items()}
                for index, step in enumerate(about["steps"])
            }
            rows += _curve_rows(scores, training_run, whole, points, control, repeat, about)
        for found in _kept(scores, FEW_SHOT) if experiment.controls.few_shot else ():
            rows.append(
                {
                    **_row(scores, training_run, "few_shot", 0),
                    "examples": found["n_examples"],
                    "n": found["n"],
                    "candidate_accuracy": found["candidate_accuracy"],
                    "logit_diff": found["logit_diff"],
                    "not_reported": found["not_reported"],
                }
            )
    return rows


def _whole(scores: RunData, training_run: TrainingRun) -> dict[int, Arrays]:
    """The fine-tune itself, step by step, on the prompts of the controls."""
    n, new, found = scores.experiment.control_prompts, scores.tasks[1], {}
    for step in scores.experiment.steps():
        arrays = scores.at(training_run.name, step, new)
        found[step] = {
            name: arrays[f"behaviour.test.{name}"][:n]
            for name in ("logit_diff", "candidate_correct")
        }
    return found


def _row(scores: RunData, training_run: TrainingRun, control: str, repeat: int) -> Row:
    """A row of which nothing is known yet."""
    nothing = ("n_parameters", "step", "examples", "step_of_90")
    nothing += ("candidate_accuracy", "logit_diff", "share")
    return {
        **scores.names(training_run),
        "control": control,
        "repeat": repeat,
        "parts": "",
        **dict.fromkeys(nothing),
        "n": 0,
        "not_reported": "",
    }


def _curve_rows(
    scores: RunData,
    training_run: TrainingRun,
    whole: dict[int, Arrays],
    points: dict[int, Arrays],
    control: str,
    repeat: int,
    about: dict[str, Any],
) -> Iterator[Row]:
    settings = scores.experiment.compare
    named = {
        **_row(scores, training_run, control, repeat),
        "parts": about.get("parts", ""),
        "n_parameters": about.get("n_parameters"),
    }
    stopped = about.get("not_reported", "")
    if not points:
        yield {**named, "not_reported": stopped}
        return
    base = whole[0]["logit_diff"].astype(np.float64)
    improvement = whole[scores.last]["logit_diff"] - base
    risen = {step: point["logit_diff"] - base for step, point in points.items()}
    needed = _REACHED * improvement.mean()
    reached = [step for step, rise in risen.items() if rise.mean() >= needed > 0]
    shares = divide(
        np.stack(list(risen.values()), axis=1),
        improvement,
        seed=settings.seed,
        repeats=settings.bootstrap,
        rounding=logit_rounding(base),
    )
    no_share = "" if shares.shares else "the improvement is not clear of zero"
    last = max(points)
    for column, (step, point) in enumerate(points.items()):
        right = point["candidate_correct"]
        yield {
            **named,
            "step": step,
            "n": len(right),
            "candidate_accuracy": proportion_interval(int(right.sum()), len(right)),
            "logit_diff": mean_interval(point["logit_diff"]),
            "share": shares.share(column),
            "step_of_90": min(reached, default=None) if shares.shares else None,
            "not_reported": "; ".join(filter(None, (no_share, stopped if step == last else ""))),
        }


ELICITABLE = Analysis(
    "elicitable",
    "What the base could be brought to, which enters no share: one row per control, repeat and "
    "step, or number of solved examples. [Controls](../how-to/controls.md) lists the controls.",
    (
        *TRAINING_RUN,
        text("control", "`everything` (the fine-tune itself), what alone was trained, `few_shot`"),
        integer("repeat", "which random set of heads"),
        text("parts", "what was trained"),
        integer("n_parameters", "how many parameters were trained"),
        STEP,
        integer("examples", "solved examples in the prompt"),
        integer("n", "prompts"),
        interval("candidate_accuracy", "over the candidates of the prompt"),
        interval("logit_diff", "in logits"),
        interval("share", "of the whole fine-tune's improvement G"),
        integer("step_of_90", "first step with 90 % of G; null if never"),
        text("not_reported", "why figures are missing"),
    ),
    ("scores", "controls"),
    elicitable_rows,
    "Context",
    Section(
        "Fine-tuning a subset of the parameters",
        "Context for the label; it enters no share of the improvement. All other parameters are "
        "frozen; in brackets, the number of trained parameters. Faint lines: size-matched random "
        "heads.",
        "context",
    ),
    settings=("compare", "controls"),
)


def training_rows(scores: RunData) -> list[Row]:
    """Rows of the table ``training``: how every fine-tune went, with the traps that show.

    A failed fine-tune is here up to where it failed.
    """
    rows, experiment = [], scores.experiment
    left = experiment.training_runs()
    for training_run in experiment.finetune.training_runs() if not experiment.checkpoints else ():
        name = layout.training(training_run.name)
        if training_run not in left and not scores.store.record(name):
            continue
        written = json.loads(scores.store.read(name))
        for figures, flags in flagged([Figures(**each) for each in written], scores.last):
            row = {**scores.names(training_run), **asdict(figures), "flags": flags}
            rows.append(TRAINING.whole(row))
    return rows


TRAINING = Analysis(
    "training",
    "One row per step and `split`.",
    (
        *TRAINING_RUN,
        STEP,
        text("split", "`train`, `validation` (held-out prompts of the new task) or `old_task`"),
        TASK,
        integer("n", "prompts"),
        interval("loss", "nats per answer token"),
        interval("accuracy", "over the whole vocabulary"),
        interval("end_of_text", "share of prompts after which that token is predicted"),
        text(
            "flags",
            "[training diagnostics](../how-to/finetune.md#training-diagnostics), joined by commas",
        ),
    ),
    ("fine_tunes",),
    training_rows,
    "Time",
    Section(
        "How training went",
        "Loss of the answer, accuracy, and how often the end of the text is predicted instead, "
        "with 95 % intervals; faint lines are other seeds. Marks below: warnings of the training "
        "diagnostics.",
        "training",
    ),
)

"""What the base could be brought to, beside the evidence and never in a share.

Control fine-tunes as curves, and solved examples before the prompt.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from circuitlapse.compare.elicitable import FewShot, few_shot
from circuitlapse.compare.ratios import divide, logit_rounding
from circuitlapse.config import Arm, Experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Model, quiet
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.measure import Arrays, load_about, load_arrays
from circuitlapse.pipeline.plan import Job
from circuitlapse.pipeline.plan_controls import FEW_SHOT, curve, trained
from circuitlapse.pipeline.prompts import read_items
from circuitlapse.pipeline.tabulate import Row, Scores, spread
from circuitlapse.records import Estimate, Store
from circuitlapse.records.intervals import mean_interval, proportion_interval
from circuitlapse.records.store import write_json
from circuitlapse.tasks import get_task
from circuitlapse.tasks.fewshot import separator_for

EVERYTHING = "everything"
_POOL = 200  # training items that solved examples are drawn from
_REACHED = 0.9  # of the gain: as good as the whole fine-tune


def ask(job: Job, store: Store, experiment: Experiment, base: Model) -> None:
    """Ask the base behind solved examples."""
    controls, task = experiment.controls, get_task(experiment.tasks.new)
    items = read_items(store.read(plan.prompts(experiment.tasks.new, "test")))[
        : experiment.control_prompts
    ]
    pool = min(_POOL, task.most("train") or _POOL)
    examples = task.items("train", pool, experiment.measure.seed, base.tokenizer)
    rows: list[FewShot] = []
    for count in controls.few_shot:
        try:
            with quiet():  # a tokenizer warns of what is too long, and a row says so
                rows += few_shot(
                    base, items, examples, [count],
                    seed=controls.seed, separator=separator_for(base.tokenizer),
                )  # fmt: skip
        except CircuitlapseError as error:  # too few examples of someone's own task
            rows.append(FewShot(count, len(items), None, None, str(error)))
    _keep(job, store, [asdict(row) for row in rows])


def _keep(job: Job, store: Store, rows: list[dict[str, Any]]) -> None:
    plain = [
        {k: v.model_dump() if isinstance(v, Estimate) else v for k, v in row.items()}
        for row in rows
    ]
    with store.write(job.outputs[0], job.key) as path:
        write_json(path, plain)


def _kept(scores: Scores, name: str) -> list[dict[str, Any]]:
    rows = json.loads(scores.store.read(name))
    return [
        {k: Estimate(**v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows
    ]


def elicitable_rows(scores: Scores) -> list[Row]:
    """Rows of the table ``elicitable``."""
    experiment, rows = scores.experiment, []
    for arm in experiment.arms():
        whole = _whole(scores, arm)
        rows += _curve_rows(scores, arm, whole, whole, EVERYTHING, 0, {})
        if arm not in experiment.control_arms():
            continue
        for control, repeat in trained(experiment.controls):
            content = scores.store.read(curve(arm.name, control, repeat))
            about, arrays = load_about(content), load_arrays(content)
            points = {
                step: {name: values[index] for name, values in arrays.items()}
                for index, step in enumerate(about["steps"])
            }
            rows += _curve_rows(scores, arm, whole, points, control, repeat, about)
        for found in _kept(scores, FEW_SHOT) if experiment.controls.few_shot else ():
            rows.append(
                {
                    **_row(scores, arm, "few_shot", 0),
                    "examples": found["n_examples"],
                    "n": found["n"],
                    **spread("accuracy_among", found["accuracy_among"]),
                    **spread("logit_diff", found["logit_diff"]),
                    "refused": found["refused"],
                }
            )
    return rows


def _whole(scores: Scores, arm: Arm) -> dict[int, Arrays]:
    """The fine-tune itself, step by step, on the prompts of the controls."""
    n, new, found = scores.experiment.control_prompts, scores.tasks[1], {}
    for step in scores.experiment.steps():
        arrays = scores.at(arm.name, step, new)
        found[step] = {
            name: arrays[f"behaviour.test.{name}"][:n] for name in ("logit_diff", "correct_among")
        }
    return found


def _row(scores: Scores, arm: Arm, control: str, repeat: int) -> Row:
    """A row of which nothing is known yet."""
    nothing = ("n_parameters", "step", "examples", "step_of_90")
    return {
        **scores.names(arm), "control": control, "repeat": repeat, "parts": "",
        **dict.fromkeys(nothing), "n": 0, **spread("accuracy_among", None),
        **spread("logit_diff", None), **spread("share", None), "refused": "",
    }  # fmt: skip


def _curve_rows(
    scores: Scores,
    arm: Arm,
    whole: dict[int, Arrays],
    points: dict[int, Arrays],
    control: str,
    repeat: int,
    about: dict[str, Any],
) -> Iterator[Row]:
    settings = scores.experiment.compare
    named = {
        **_row(scores, arm, control, repeat), "parts": about.get("parts", ""),
        "n_parameters": about.get("n_parameters"),
    }  # fmt: skip
    stopped = about.get("refused", "")
    if not points:
        yield {**named, "refused": stopped}
        return
    base = whole[0]["logit_diff"].astype(np.float64)
    gain = whole[scores.last]["logit_diff"] - base
    risen = {step: point["logit_diff"] - base for step, point in points.items()}
    needed = _REACHED * gain.mean()
    reached = [step for step, rise in risen.items() if rise.mean() >= needed > 0]
    shares = divide(
        np.stack(list(risen.values()), axis=1), gain, seed=settings.seed,
        repeats=settings.bootstrap, rounding=logit_rounding(base),
    )  # fmt: skip
    no_share = "" if shares.shares else "the gain is not clear of zero"
    last = max(points)
    for column, (step, point) in enumerate(points.items()):
        right = point["correct_among"]
        yield {
            **named,
            "step": step,
            "n": len(right),
            **spread("accuracy_among", proportion_interval(int(right.sum()), len(right))),
            **spread("logit_diff", mean_interval(point["logit_diff"])),
            **spread("share", shares.share(column)),
            "step_of_90": min(reached, default=None) if shares.shares else None,
            "refused": "; ".join(filter(None, (no_share, stopped if step == last else ""))),
        }

"""The verdict of a run, from what was measured of its fine-tunes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from circuitlapse.analyses.analysis import Analysis, RunData
from circuitlapse.analyses.behaviour import BEHAVIOUR, rise_over, shortcuts_of
from circuitlapse.analyses.carriers import BITS, CARRIERS
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays
from circuitlapse.records.calibration import known_errors
from circuitlapse.records.columns import Row
from circuitlapse.records.documents import Verdict
from circuitlapse.records.items import read_items
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.label_words import Named
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.preconditions import Context, Findings, check_preconditions
from circuitlapse.verdict.statements import statements
from circuitlapse.verdict.verdict import MARKS, FineTune, build_verdict


def decide(scores: RunData, recipe: str) -> Verdict:
    """Give the verdict on a recipe, from all its seeds; with each seed's evidence."""
    experiment = scores.experiment
    seeds, evidence = {}, {}
    for training_run in experiment.training_runs():
        if training_run.recipe != recipe:
            continue
        findings = findings_of(scores, training_run)
        seeds[training_run.seed] = fine_tune_of(scores, training_run, findings)
        measures, context = seeds[training_run.seed].measures, _context(scores, training_run)
        evidence[training_run.seed] = statements(context, findings, measures)
    settings, base = experiment.compare, experiment.base
    model = Path(base.path).name if base.path else f"the organism {base.organism}"
    named = Named(model, *(Path(task).stem for task in scores.tasks))
    measured = all(one.evidence.bits_ratio.estimate is not None for one in seeds.values())
    return build_verdict(
        seeds,
        evidence,
        named,
        calibration=known_errors(MARKS, with_bits=measured),
        seed=settings.seed,
        repeats=settings.bootstrap,
    )


def fine_tune_of(scores: RunData, training_run: TrainingRun, findings: Findings) -> FineTune:
    """Return what a fine-tune's label is made from: rows of tables, and the preconditions."""
    last = {"step": scores.last}
    (gained,) = _rows(scores, BEHAVIOUR, training_run, task=scores.tasks[1], split="test", **last)
    gain = Gain(*(gained[f"{part.name}_rise"] for part in fields(Gain)))
    bits = _rows(scores, BITS, training_run)
    measures = Measures.of_rows(_rows(scores, CARRIERS, training_run, **last), bits)
    context = _context(scores, training_run)
    return FineTune(gain, measures, check_preconditions(findings, gain.logits, context))


def _rows(
    scores: RunData, analysis: Analysis, training_run: TrainingRun, **where: Any
) -> list[Row]:
    """Rows of a table of one fine-tune, with intervals as values."""
    return [
        analysis.whole(row)
        for row in scores.table(analysis.name, training_run)
        if all(row[name] == value for name, value in where.items())
    ]


def _context(scores: RunData, training_run: TrainingRun) -> Context:
    experiment, (old, new) = scores.experiment, scores.tasks
    return Context(
        old=old,
        new=new,
        counterfactual=experiment.measure.counterfactuals[0],
        step=scores.last,
        seeds=scores.names(training_run),
        placebo=experiment.finetune.placebo or None,
    )


def findings_of(scores: RunData, training_run: TrainingRun) -> Findings:
    """Return what the preconditions and the sentences about behaviour are made of."""
    family = scores.experiment.measure.counterfactuals[0]
    last, (old, new) = scores.last, scores.tasks
    base_old, base_new = (scores.at(training_run.name, 0, task) for task in (old, new))
    tuned_old, tuned_new = (scores.at(training_run.name, last, task) for task in (old, new))
    clean, corrupt = (
        base_old[f"faithfulness_{side}.{family}"].astype(float) for side in ("clean", "corrupt")
    )
    placebo_gain, own = None, scores.experiment.own_placebo(training_run)
    if own is not None:
        placebo_gain = rise_over(base_new, scores.at(own.name, last, new), "test")
    listed = read_items(scores.store.read(layout.prompts(new, "test")))[0].distractors
    return Findings(
        base_old=_among(base_old, "test"),
        base_new=_among(base_new, "test"),
        tuned_old=_among(tuned_old, "test"),
        tuned_new=_among(tuned_new, "test"),
        tuned_new_templates=_among(tuned_new, "test_templates"),
        candidates=len(listed) + 1,
        old_difference=mean_interval(clean - corrupt),
        placebo_gain=placebo_gain,
        shortcuts={
            (found.rule, found.split): found.margin
            for found in shortcuts_of(scores, training_run, new)
        },
    )


def _among(arrays: Arrays, split: str) -> Estimate:
    right = arrays[f"behaviour.{split}.candidate_correct"]
    return proportion_interval(int(right.sum()), len(right))

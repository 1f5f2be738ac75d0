"""The verdict of a run, from what was measured of its fine-tunes."""

from circuitlapse.analyses.analysis import RunData
from circuitlapse.analyses.behaviour import rise_over, shortcuts_of
from circuitlapse.analyses.grafts import evidence_of
from circuitlapse.analyses.head_changes import last_changes
from circuitlapse.analyses.overlap import overlaps_of
from circuitlapse.analyses.registry import ANALYSES
from circuitlapse.config.finetune import TrainingRun
from circuitlapse.records import layout
from circuitlapse.records.arrays import Arrays
from circuitlapse.records.documents import Evidence, Verdict
from circuitlapse.records.items import read_items
from circuitlapse.stats.intervals import Estimate, mean_interval, proportion_interval
from circuitlapse.verdict.causes import divide_gain
from circuitlapse.verdict.decision import Run
from circuitlapse.verdict.preconditions import Context, Findings, check_preconditions
from circuitlapse.verdict.statements import statements
from circuitlapse.verdict.verdict import build_verdict


def decide(scores: RunData, recipe: str) -> Verdict:
    """Give the verdict on a recipe, from all its seeds; with each seed's evidence."""
    training_runs = [
        training_run
        for training_run in scores.experiment.training_runs()
        if training_run.recipe == recipe
    ]
    family, settings = scores.experiment.measure.counterfactuals[0], scores.experiment.compare
    runs, evidence, grouped = {}, {}, True
    for training_run in training_runs:
        findings = findings_of(scores, training_run)
        runs[training_run.seed] = run_of(scores, training_run, findings)
        grouped = grouped and not evidence_of(scores, training_run).choice.not_reported
        evidence[training_run.seed] = _evidence(scores, training_run, family, findings)
    return build_verdict(
        runs, evidence, grouped=grouped, seed=settings.seed, repeats=settings.bootstrap
    )


def run_of(scores: RunData, training_run: TrainingRun, findings: Findings) -> Run:
    """Return one fine-tune, ready to be judged alone or with others, also those of other bases."""
    found, settings = evidence_of(scores, training_run), scores.experiment.compare
    improvement = divide_gain(
        [found.measured], seed=settings.seed, repeats=settings.bootstrap
    ).improvement
    return found.run(check_preconditions(findings, improvement, _context(scores, training_run)))


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


def _evidence(
    scores: RunData, training_run: TrainingRun, family: str, findings: Findings
) -> list[Evidence]:
    context = _context(scores, training_run)
    changes = last_changes(scores, training_run, family)

    worded = [
        evidence
        for analysis in ANALYSES
        if analysis.sentences
        for evidence in analysis.sentences(context, scores.table(analysis.name, training_run))
    ]
    return [
        *statements(context, findings, overlaps_of(scores, training_run, family), changes),
        _groups(scores, training_run),
        *worded,
    ]


def _groups(scores: RunData, training_run: TrainingRun) -> Evidence:
    choice = evidence_of(scores, training_run).choice
    old, recruited = (
        ", ".join(heads) or "none" for heads in (choice.old_heads, choice.recruited_heads)
    )
    return Evidence(
        statement=f"The groups were chosen on validation prompts. Old-task heads: {old}. Recruited "
        f"heads: {recruited}. Change categories are measured on test prompts and use the placebo, "
        "so they may differ for heads near the threshold and for heads that the placebo changes.",
        table="grafts",
        where={**scores.names(training_run), "step": scores.last, "origin": "rescaled_base"},
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

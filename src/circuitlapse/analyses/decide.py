"""The verdict of a run, from what was measured of its fine-tunes."""

from circuitlapse.analyses.behaviour import rise_over, shortcuts_of
from circuitlapse.analyses.data import Row, RunData
from circuitlapse.analyses.grafts import evidence_of
from circuitlapse.analyses.heads import last_changes
from circuitlapse.analyses.overlap import overlaps_of
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
from circuitlapse.verdict.wording import Tables, evidence_sentences


def decide(scores: RunData, recipe: str) -> Verdict:
    """Give the verdict on a recipe, from all its seeds; each seed's evidence stands beside it."""
    arms = [arm for arm in scores.experiment.arms() if arm.recipe == recipe]
    family, settings = scores.experiment.measure.corruptions[0], scores.experiment.compare
    runs, evidence, grouped = {}, {}, True
    for arm in arms:
        findings = findings_of(scores, arm)
        runs[arm.seed] = run_of(scores, arm, findings)
        grouped = grouped and not evidence_of(scores, arm).choice.refused
        evidence[arm.seed] = _evidence(scores, arm, family, findings)
    return build_verdict(
        runs, evidence, grouped=grouped, seed=settings.seed, repeats=settings.bootstrap
    )


def run_of(scores: RunData, arm: TrainingRun, findings: Findings) -> Run:
    """Return one fine-tune, ready to be judged alone or with others, also those of other bases."""
    found, settings = evidence_of(scores, arm), scores.experiment.compare
    gain = divide_gain([found.measured], seed=settings.seed, repeats=settings.bootstrap).gain
    return found.run(check_preconditions(findings, gain, _context(scores, arm)))


def _context(scores: RunData, arm: TrainingRun) -> Context:
    experiment, (old, new) = scores.experiment, scores.tasks
    return Context(
        old=old,
        new=new,
        corruption=experiment.measure.corruptions[0],
        step=scores.last,
        seeds=scores.names(arm),
        placebo=experiment.finetune.placebo or None,
    )


def _evidence(scores: RunData, arm: TrainingRun, family: str, findings: Findings) -> list[Evidence]:
    context = _context(scores, arm)
    fates = last_changes(scores, arm, family)

    def rows(table: str) -> list[Row]:
        return scores.table(table, arm)

    tables = Tables(
        grafts=rows("grafts"),
        mediation=rows("mediation"),
        crosspatch=rows("crosspatch"),
        roles=rows("roles"),
        dynamics=rows("dynamics"),
    )
    return [
        *statements(context, findings, overlaps_of(scores, arm, family), fates),
        _groups(scores, arm),
        *evidence_sentences(context, tables),
    ]


def _groups(scores: RunData, arm: TrainingRun) -> Evidence:
    choice = evidence_of(scores, arm).choice
    old, recruited = (
        ", ".join(heads) or "none" for heads in (choice.old_heads, choice.recruited_heads)
    )
    return Evidence(
        statement="The groups were chosen on validation prompts: the old circuit's heads are "
        f"{old}; recruited, {recruited}. The fates are judged on test prompts and beside the "
        "placebo, so that they may differ for heads near the threshold or that it moves.",
        table="grafts",
        where={**scores.names(arm), "step": scores.last, "origin": "gained"},
    )


def findings_of(scores: RunData, arm: TrainingRun) -> Findings:
    """Return what the preconditions and the sentences about behaviour are made of."""
    family = scores.experiment.measure.corruptions[0]
    last, (old, new) = scores.last, scores.tasks
    base_old, base_new = (scores.at(arm.name, 0, task) for task in (old, new))
    tuned_old, tuned_new = (scores.at(arm.name, last, task) for task in (old, new))
    clean, corrupt = (
        base_old[f"faithfulness_{side}.{family}"].astype(float) for side in ("clean", "corrupt")
    )
    placebo_gain, own = None, scores.experiment.own_placebo(arm)
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
            (found.rule, found.split): found.margin for found in shortcuts_of(scores, arm, new)
        },
    )


def _among(arrays: Arrays, split: str) -> Estimate:
    right = arrays[f"behaviour.{split}.correct_among"]
    return proportion_interval(int(right.sum()), len(right))

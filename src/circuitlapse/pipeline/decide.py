"""The verdict of a run, from the verdicts of its fine-tunes."""

import numpy as np

from circuitlapse.compare import Context, Findings, build_verdict, gain_shares
from circuitlapse.config import Arm
from circuitlapse.pipeline import plan
from circuitlapse.pipeline.compare import fates_of, heads_of, hybrids_of, overlaps_of, shares_of
from circuitlapse.pipeline.measure import Arrays
from circuitlapse.pipeline.prompts import read_items
from circuitlapse.pipeline.shortcuts import shortcuts_of
from circuitlapse.pipeline.tabulate import Scores
from circuitlapse.records import Estimate, Evidence, Verdict
from circuitlapse.records.intervals import mean_interval, proportion_interval


def decide(scores: Scores, recipe: str) -> Verdict:
    """Give the verdict on a recipe; with several seeds, each seed's evidence stands beside it.

    With several seeds gain and shares are those of the mean over seeds; each seed's groups hold
    its own heads, and the intervals speak about prompts only: the scope says both.
    """
    arms = [arm for arm in scores.experiment.arms() if arm.recipe == recipe]
    verdicts = [_of_arm(scores, arm) for arm in arms]
    if len(verdicts) == 1:
        return verdicts[0]
    hybrids = [hybrids_of(scores, arm) for arm in arms]
    settings, sizes = scores.experiment.compare, hybrids[0][1]["n_parameters"]
    pooled = gain_shares(
        np.mean([values for values, _ in hybrids], axis=0), sizes,
        seed=settings.seed, repeats=settings.bootstrap,
    )  # fmt: skip
    named = list(zip([arm.seed for arm in arms], verdicts, strict=True))
    return Verdict(
        label="no_gain"
        if pooled.gain.low <= 0 and any(each.label == "no_gain" for each in verdicts)
        else "undetermined",
        reason=" ".join(f"Seed {seed}: {verdict.reason}" for seed, verdict in named),
        scope=f"these {len(arms)} fine-tunes of one base, each with its own groups of heads; "
        "intervals are over prompts, not seeds",
        gain=pooled.gain,
        shares={group: row.share_estimate for group, row in pooled.of("shapley").items()},
        preconditions=[
            check.model_copy(update={"name": f"{check.name} (seed {seed})"})
            for seed, verdict in named
            for check in verdict.preconditions
        ],
        evidence=[
            found.model_copy(update={"statement": f"Seed {seed}: {found.statement}"})
            for seed, verdict in named
            for found in verdict.evidence
        ],
    )


def _of_arm(scores: Scores, arm: Arm) -> Verdict:
    experiment, (old, new) = scores.experiment, scores.tasks
    family = experiment.measure.corruptions[0]
    context = Context(
        old=old, new=new, corruption=family, step=scores.last, seeds=scores.names(arm),
        placebo=experiment.finetune.placebo or None,
    )  # fmt: skip
    fates = fates_of(scores, arm, family)
    overlaps = [row for found in overlaps_of(scores, arm, family) for row in found.rows]
    verdict = build_verdict(
        context, _findings(scores, arm, family), shares_of(scores, arm), overlaps, fates
    )
    return verdict.model_copy(update={"evidence": [*verdict.evidence, _groups(scores, arm)]})


def _groups(scores: Scores, arm: Arm) -> Evidence:
    heads = heads_of(scores, arm)
    return Evidence(
        statement="The groups were chosen on validation prompts: the old circuit's heads are "
        f"{heads['old_heads'] or 'none'}; recruited, {heads['recruited_heads'] or 'none'}. The "
        "fates are judged on test prompts and may differ for heads near the threshold.",
        table="grafts",
        where={**scores.names(arm), "step": scores.last},
    )


def _findings(scores: Scores, arm: Arm, family: str) -> Findings:
    last, (old, new) = scores.last, scores.tasks
    base_old, base_new = (scores.at(arm.name, 0, task) for task in (old, new))
    tuned_old, tuned_new = (scores.at(arm.name, last, task) for task in (old, new))
    clean, corrupt = (
        scores.family(arm.name, 0, old, name, family) for name in ("clean", "corrupt")
    )
    placebo_gain, own = None, scores.experiment.own_placebo(arm)
    if own is not None:
        placebo = scores.at(own.name, last, new)
        metric = "behaviour.test.logit_diff"
        placebo_gain = mean_interval(placebo[metric].astype(float) - base_new[metric])
    listed = read_items(scores.store.read(plan.prompts(new, "test")))[0].distractors
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

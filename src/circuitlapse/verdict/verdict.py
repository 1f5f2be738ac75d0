"""The verdict: the decision, its evidence in words, and the errors of the rule in calibration.

The figures of the calibration are those of :func:`circuitlapse.records.calibration.released`.
"""

from collections.abc import Mapping, Sequence

from circuitlapse.heads import thresholds as head_thresholds
from circuitlapse.records.calibration import Calibration, Tally, released
from circuitlapse.records.documents import CAUSES, Cause, Evidence, OneSeed, Verdict
from circuitlapse.stats.intervals import Estimate
from circuitlapse.verdict import thresholds
from circuitlapse.verdict.causes import Causes
from circuitlapse.verdict.decision import Decision, Run, decide_causes
from circuitlapse.verdict.statements import GROUP_NAMES
from circuitlapse.verdict.thresholds import POOLED_SEEDS

NO_GROUPS = (
    f"Heads could not be told apart, so neither the {GROUP_NAMES['old_heads']} nor the "
    f"{GROUP_NAMES['recruited_heads']} have a share."
)

WEIGHTS_ONLY = "it reads where weights changed and names no mechanism"


def build_verdict(
    runs: Mapping[int, Run],
    evidence: Mapping[int, Sequence[Evidence]],
    *,
    grouped: bool,
    seed: int,
    repeats: int = 1000,
) -> Verdict:
    """Return the verdict on the fine-tunes of one recipe, by seed.

    ``grouped`` is whether the head groups could be told apart in all of them; otherwise no share of
    a head group is meaningful.

    Raises:
        CircuitlapseError: If there is no fine-tune, or they were not measured on the same prompts.
    """
    names = [f"seed {number}" for number in runs]
    decision = decide_causes(list(runs.values()), seed=seed, repeats=repeats, names=names)
    several = len(runs) > 1
    alone = dict(zip(runs, decision.each, strict=True)) if several else {}
    return Verdict(
        label=decision.label,
        reason=decision.reason if grouped else f"{decision.reason} {NO_GROUPS}",
        scope=decision.scope,
        calibration=f"{WEIGHTS_ONLY}; {known_of_rule(released())}",
        improvement=decision.causes.improvement,
        shares=_shares(decision.causes, grouped),
        seeds=[_one(number, each, grouped) for number, each in alone.items()],
        few_seeds=several and len(runs) < POOLED_SEEDS,
        preconditions=decision.checks,
        evidence=[
            found.model_copy(update={"statement": f"Seed {number}: {found.statement}"})
            if several
            else found
            for number, sentences in evidence.items()
            for found in sentences
        ],
    )


def _shares(causes: Causes, grouped: bool) -> dict[Cause, Estimate | None]:
    if causes.shares is None:
        return dict.fromkeys(CAUSES)
    shares: dict[Cause, Estimate | None] = {**causes.shares}
    return shares if grouped else {**dict.fromkeys(CAUSES), "elicited": shares["elicited"]}


def _one(number: int, decision: Decision, grouped: bool) -> OneSeed:
    return OneSeed(
        finetune_seed=number,
        label=decision.label,
        improvement=decision.causes.improvement,
        shares=_shares(decision.causes, grouped),
    )


THRESHOLDS: dict[str, float] = {
    name: value
    for module in (head_thresholds, thresholds)
    for name, value in vars(module).items()
    if name.isupper()
}
"""The rule's thresholds, by name."""


def known_of_rule(found: Calibration) -> str:
    """Say how often the label was right on models with known ground truth.

    A calibration with other thresholds says nothing about the errors of the present rule.
    """
    if found.thresholds != THRESHOLDS:
        return (
            "its thresholds differ from the calibrated ones, so its errors are not known "
            "(docs/results/calibration.md)"
        )
    tallies = {each.kind: each for each in found.tallies}
    causes, nothing = tallies["all causes"], tallies["nothing"]
    seeds = [each.seed for each in found.organisms if each.scored]
    return (
        f"frozen, then scored once on {causes.n + nothing.n} small models with known ground truth "
        f"(seeds {min(seeds)} to {max(seeds)}), and made more conservative in one place since. Of "
        f"{causes.n} models with a cause {_named(causes)}; of {nothing.n} models without an "
        f"improvement {_named(nothing)}. Its errors on other models are not known "
        "(docs/results/calibration.md)"
    )


def _named(tally: Tally) -> str:
    low, high = (100 * end for end in (tally.wrong_share.low, tally.wrong_share.high))
    return (
        f"{tally.right} labels were correct and {tally.wrong} wrong ({low:.0f} to {high:.0f} %, "
        f"exact 95 % interval), and {tally.undetermined} undetermined"
    )

"""The verdict: what was decided, its evidence in words, and what is known of the rule itself.

What is known of the decision rule: how often it named what was planted.

The sentence stands in every verdict. It is worded from the calibration that the rule was released
with (:func:`circuitlapse.records.calibration.released`): no figure in it is written by hand.
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


def build_verdict(
    runs: Mapping[int, Run],
    evidence: Mapping[int, Sequence[Evidence]],
    *,
    grouped: bool,
    seed: int,
    repeats: int = 1000,
) -> Verdict:
    """Judge the fine-tunes of one recipe.

    Args:
        runs: One for each fine-tuning seed.
        evidence: The sentences on each.
        grouped: Whether heads could be told apart in all of them; without that, no share of a group
            of heads means anything.
        seed: Fixes the bootstrap.
        repeats: Its resamples.

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
        calibration=known_of_rule(released()),
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
    """Say how often the rule was right on models whose answer was planted.

    Of a calibration with other thresholds than those in use, it says that nothing is known.
    """
    if found.thresholds != THRESHOLDS:
        return (
            "its thresholds are not those that were calibrated, so that its errors are not known "
            "(docs/results/calibration.md)"
        )
    tallies = {each.kind: each for each in found.tallies}
    causes, nothing = tallies["all causes"], tallies["nothing"]
    seeds = [each.seed for each in found.organisms if each.scored]
    return (
        f"frozen, then scored once on {causes.n + nothing.n} small models whose answer was planted "
        f"(seeds {min(seeds)} to {max(seeds)}), and since then made more careful in one place. Of "
        f"{causes.n} with a cause {_named(causes)}; of "
        f"{nothing.n} that learnt nothing {_named(nothing)}. On other models its errors are not "
        "known (docs/results/calibration.md)"
    )


def _named(tally: Tally) -> str:
    low, high = (100 * end for end in (tally.wrong_share.low, tally.wrong_share.high))
    return (
        f"it named {tally.right} rightly and {tally.wrong} wrongly ({low:.0f} to {high:.0f} %, "
        f"exact 95 % interval), and left {tally.undetermined} undetermined"
    )

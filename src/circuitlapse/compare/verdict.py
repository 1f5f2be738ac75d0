"""The verdict: what was decided, its evidence in words, and what is known of the rule itself."""

from collections.abc import Mapping, Sequence

from circuitlapse.compare.causes import Causes
from circuitlapse.compare.decision import Decision, Run, decide_causes
from circuitlapse.compare.rule import known_of_rule
from circuitlapse.compare.statements import GROUP_NAMES
from circuitlapse.compare.thresholds import POOLED_SEEDS
from circuitlapse.records.calibration import released
from circuitlapse.records.documents import CAUSES, Cause, Estimate, Evidence, OneSeed, Verdict

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
        gain=decision.causes.gain,
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
        gain=decision.causes.gain,
        shares=_shares(decision.causes, grouped),
    )

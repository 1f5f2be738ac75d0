"""Which label the measured causes allow: elicited, transformed, formed, mixed, or none.

The label is the first that fits:

    no_gain       the two models answer every prompt alike, as a model and its copy do
    undetermined  the base does not solve the old task, so that no improvement can come from it
    no_gain       the interval of G is at or below zero; or that of the rise in candidate accuracy
                  is below a minimum; or that of the rise of the logit difference in units of the
                  logits' spread is at or below zero (a model that is surer is not better)
    undetermined  one of the three intervals includes its bound, so that an improvement is not
                  shown; or another precondition fails
    elicited, transformed, formed
                  the interval of its share is above one half, and the required checks hold;
                  undetermined if they do not
    mixed         the intervals of all shares are narrow, and none is above one half
    undetermined  all other cases

Required checks of *transformed* and *formed*: the group is the first of the head groups by
add-one-in and by leave-one-out, as it is by Shapley (otherwise its share depends on the order of
grafts); and its graft and its mediation exceed those of size-matched random heads. Required check
of *elicited*: scales that cannot be negative also reach more than half. A free scale can change the
sign of a head, and a name mover made of a negative name mover was not merely hidden.

With one fine-tune the scope is that run. Up to four are judged one by one and have a label if all
have the same. From five on the label is that of the pooled shares; preconditions must hold in all
of them, and the required checks in more than half.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from circuitlapse.records.documents import Group, Precondition
from circuitlapse.stats.random_baseline import RandomBaseline
from circuitlapse.verdict import thresholds
from circuitlapse.verdict.causes import CAUSES, Causes, Measured, divide_gain
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.preconditions import OLD_TASK_DONE, percent

Label = Literal["elicited", "transformed", "formed", "mixed", "no_gain", "undetermined"]
Named = Literal["elicited", "transformed", "formed"]
GROUP_OF: dict[Named, Group] = {"transformed": "old_heads", "formed": "recruited_heads"}
_HEADS: tuple[Group, ...] = ("old_heads", "recruited_heads", "other_heads")


@dataclass(frozen=True)
class Support:
    """The checks of one fine-tune's shares.

    Attributes:
        non_negative: Share of G that non-negative scales reach, on test prompts.
        grafts: For each group, the add-one-in improvements of size-matched random groups; None
            without any.
        mediation: Likewise the improvements with all other heads frozen to the base's activations.
    """

    non_negative: float
    grafts: dict[Group, RandomBaseline | None]
    mediation: dict[Group, RandomBaseline | None]


@dataclass(frozen=True)
class Run:
    """One fine-tune, with what the decision needs."""

    measured: Measured
    support: Support
    preconditions: Sequence[Precondition]


@dataclass(frozen=True)
class Decision:
    """A label and what it rests on.

    Attributes:
        reason: Why, in one or two sentences.
        scope: The fine-tunes that the label is about.
        causes: The shares, of all fine-tunes together.
        checks: Preconditions, then the label's required checks.
        each: Of several fine-tunes, the decision on each alone.
    """

    label: Label
    reason: str
    scope: str
    causes: Causes
    checks: list[Precondition]
    each: Sequence["Decision"] = ()


def decide_causes(
    runs: Sequence[Run], *, seed: int, repeats: int = 1000, names: Sequence[str] = ()
) -> Decision:
    """Return the decision on one or more fine-tunes for the same new task.

    ``names`` are those of several fine-tunes; by default run 1, run 2 and so on.

    Raises:
        CircuitlapseError: If there is none, or they were not measured on the same prompts.
    """
    pooled = divide_gain([run.measured for run in runs], seed=seed, repeats=repeats)
    if len(runs) == 1:
        return _judged(pooled, runs, "this run")
    names = names or [f"run {number}" for number in range(1, len(runs) + 1)]
    each = [decide_causes([run], seed=seed, repeats=repeats) for run in runs]
    if len(runs) >= thresholds.POOLED_SEEDS:
        decision = _judged(pooled, runs, f"fine-tunes like these {len(runs)}", names)
        return replace(decision, each=each)
    labels: set[Label] = {decision.label for decision in each}
    listed = "; ".join(
        f"{name}, {one.label}: {one.reason}" for name, one in zip(names, each, strict=True)
    )
    return Decision(
        label=each[0].label if len(labels) == 1 else "undetermined",
        reason=f"Each run alone: {listed}",
        scope=f"these {len(runs)} runs",
        causes=pooled,
        checks=[
            check for name, one in zip(names, each, strict=True) for check in _of(name, one.checks)
        ],
        each=each,
    )


def _of(name: str, checks: Sequence[Precondition]) -> list[Precondition]:
    """Add the run to the names of checks, if there are several."""
    if not name:
        return list(checks)
    return [check.model_copy(update={"name": f"{check.name} ({name})"}) for check in checks]


def _judged(
    causes: Causes, runs: Sequence[Run], scope: str, names: Sequence[str] = ("",)
) -> Decision:
    preconditions = [
        check
        for name, run in zip(names, runs, strict=True)
        for check in _of(name, run.preconditions)
    ]

    def decision(label: Label, reason: str, support: Sequence[Precondition] = ()) -> Decision:
        return Decision(label, reason, scope, causes, [*preconditions, *support])

    failed = [check.name for check in preconditions if not check.holds]
    unmet = f"A precondition fails: {'; '.join(failed)}."
    gain = Gain(causes.improvement, causes.accuracy_gain, causes.standardised_gain)
    if gain.alike:
        return decision("no_gain", gain.absent())
    own = (check for run in runs for check in run.preconditions)
    if any(check.name == OLD_TASK_DONE and not check.holds for check in own):
        return decision("undetermined", unmet)
    if absent := gain.absent():
        return decision("no_gain", absent)
    if unclear := gain.unclear():
        return decision("undetermined", f"An improvement is not shown. {unclear}")
    shares = causes.shares
    if failed or shares is None:
        small = "The improvement G is within rounding error of the logits: no shares are computed."
        unmet = unmet if failed else small
        return decision("undetermined", unmet)
    shown = ", ".join(f"{cause} {percent(shares[cause])}" for cause in CAUSES)
    for cause in get_args(Named):
        if shares[cause].low <= thresholds.MAJORITY:
            continue
        support = _support(cause, causes, runs)
        lacking = [check.name for check in support if not check.holds]
        if lacking:
            reason = f"{shown}; but {'; '.join(lacking)} does not hold."
            return decision("undetermined", reason, support)
        return decision(cause, f"Most of the improvement has one cause: {shown}.", support)
    if shares["elsewhere"].low > thresholds.MAJORITY:
        return decision(
            "undetermined", f"Most of the improvement is in neither group of heads: {shown}."
        )
    widths = [share.high - share.low for share in shares.values()]
    highest = max(share.high for share in shares.values())
    if max(widths) <= thresholds.TIGHT:
        if highest <= thresholds.MAJORITY:
            return decision("mixed", f"No cause has most of the improvement: {shown}.")
        return decision(
            "undetermined",
            f"The intervals do not decide whether one share has most of the improvement: {shown}.",
        )
    return decision("undetermined", f"The intervals are too wide to name a cause: {shown}.")


def _support(cause: Named, causes: Causes, runs: Sequence[Run]) -> list[Precondition]:
    """Return a label's required checks; with several runs, they hold in more than half of them."""
    if cause == "elicited":
        reached = [run.support.non_negative for run in runs]
        return [
            Precondition(
                name="Rescaling without negative scales also reaches most of the improvement",
                holds=_mostly(share > thresholds.MAJORITY for share in reached),
                detail=f"shares of G: {_listed(reached)}; must be above {thresholds.MAJORITY}",
                table="grafts",
            )
        ]
    group = GROUP_OF[cause]
    checks = []
    for name, shares in (
        ("add-one-in", causes.add_one_in),
        ("leave-one-out", causes.leave_one_out),
    ):
        found = {each: (shares or {}).get(each, 0.0) for each in _HEADS}
        checks.append(
            Precondition(
                name=f"The group is also the first of the head groups by {name}",
                holds=max(found, key=lambda each: found[each]) == group,
                detail=", ".join(f"{each} {share:.2f}" for each, share in found.items()),
                table="grafts",
            )
        )
    for name, values in (("graft", "grafts"), ("mediation", "mediation")):
        rows: list[RandomBaseline | None] = [
            getattr(run.support, values).get(group) for run in runs
        ]
        drawn = [row for row in rows if row is not None]
        checks.append(
            Precondition(
                name=f"Its {name} exceeds that of size-matched random heads",
                holds=_mostly(
                    row is not None and row.p_value <= thresholds.LARGEST_P for row in rows
                ),
                detail=f"p {_listed([row.p_value for row in drawn])} in {len(drawn)} of "
                f"{len(rows)} runs that have random groups; must be at most "
                f"{thresholds.LARGEST_P}",
                table="grafts" if name == "graft" else name,
            )
        )
    return checks


def _mostly(holds: Iterable[bool]) -> bool:
    votes = list(holds)
    return sum(votes) > len(votes) / 2


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values) or "none"

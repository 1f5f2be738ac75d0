"""The decision on arrays whose truth is set by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.documents import CAUSES, GROUPS, Precondition
from circuitlapse.stats.random_baseline import RandomBaseline
from circuitlapse.verdict.causes import SUBSETS, Measured, divide_gain
from circuitlapse.verdict.decision import Run, Support, decide_causes

PROMPTS = 80


def answers(logit_diff, right, spread=1.0):
    diff = np.asarray(logit_diff, np.float32)
    n_right = round(right * len(diff))
    correct = np.arange(len(diff)) < n_right
    return Behaviour(diff, correct, correct, np.full_like(diff, spread))


def measured(elicited, effects, *, noise=0.3, right=(0.4, 0.95), spread=1.0, seed=0, n=PROMPTS):
    """A rescaled base that improves by ``elicited``, and groups that add their effects to it."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    start = base + rng.normal(elicited, noise, size=n)
    own = {g: rng.normal(e, noise, size=n) for g, e in zip(GROUPS, effects, strict=True)}
    hybrids = np.stack([start + sum((own[g] for g in s), np.zeros(n)) for s in SUBSETS])
    return Measured(answers(base, right[0]), answers(hybrids[-1], right[1], spread), hybrids)


FEW = RandomBaseline(20, 0.1, 0.0, 0.3, 1 / 21)
MANY = RandomBaseline(20, 0.1, 0.0, 3.0, 0.4)
SUPPORT = Support(
    non_negative=0.8,
    grafts={"old_heads": FEW, "recruited_heads": FEW},
    mediation={"old_heads": FEW, "recruited_heads": FEW},
)


def run(elicited, effects, support=SUPPORT, holds=True, **options):
    check = Precondition(name="The base solves the old task", holds=holds, detail="")
    return Run(measured(elicited, effects, **options), support, [check])


def decide(*runs):
    return decide_causes(runs, seed=0, repeats=200)


def test_shares_are_those_put_in_and_sum_to_one():
    causes = divide_gain([measured(1.0, [4.0, 2.0, 0.5, 2.0, 0.5], noise=1e-4)], seed=0)
    assert causes.shares is not None
    found = [causes.shares[cause].value for cause in CAUSES]
    assert found == pytest.approx([0.1, 0.4, 0.2, 0.3], abs=1e-3)
    assert causes.add_one_in is not None
    assert causes.add_one_in["old_heads"] == pytest.approx(0.4, abs=1e-3)
    assert causes.improvement.value == pytest.approx(10, abs=1e-2)
    assert causes.accuracy_gain.value == pytest.approx(0.55)
    assert causes.standardised_gain.value == pytest.approx(10, abs=1e-2)


@given(arrays(np.float64, (32, 5), elements=st.floats(-20, 20)), st.integers(1, 2))
@settings(max_examples=25)
def test_shares_sum_to_one_whatever_the_grafted_models_answer(hybrids, n_runs):
    hybrids[-1] += 100
    base = np.linspace(-3, 3, 5)
    runs = [
        Measured(answers(base, 0), answers(hybrids[-1], 1), np.roll(hybrids, shift, axis=1))
        for shift in [0] * n_runs
    ]
    # M1's answers are single precision, as they are read from a model.
    for each in runs:
        each.hybrids[-1] = each.tuned.logit_diff
    shares = divide_gain(runs, seed=0, repeats=5).shares
    assert shares is not None
    assert sum(share.value for share in shares.values()) == pytest.approx(1, abs=1e-5)


def test_the_bootstrap_over_runs_and_prompts_is_the_literal_one():
    runs = [measured(1, [k, 1, 1, 1, 1], seed=k, n=20) for k in range(5)]
    found = divide_gain(runs, seed=3, repeats=60)
    rng = [np.random.default_rng([3, stream]) for stream in (0, 1)]
    prompts, chosen = rng[0].integers(0, 20, (60, 20)), rng[1].integers(0, 5, (60, 5))
    improvements, shares = [], []
    for rows, picked in zip(prompts, chosen, strict=True):
        parts = [
            (
                (runs[i].hybrids[0] - runs[i].base.logit_diff.astype(np.float64))[rows].mean(),
                (runs[i].tuned.logit_diff - runs[i].base.logit_diff)
                .astype(np.float64)[rows]
                .mean(),
            )
            for i in picked
        ]
        elicited, improvement = np.mean(parts, axis=0)
        improvements.append(improvement)
        shares.append(elicited / improvement)
    assert (found.improvement.low, found.improvement.high) == pytest.approx(
        tuple(np.percentile(improvements, [2.5, 97.5])), abs=1e-5
    )
    assert found.shares is not None
    assert (found.shares["elicited"].low, found.shares["elicited"].high) == pytest.approx(
        tuple(np.percentile(shares, [2.5, 97.5])), abs=1e-5
    )


def test_each_cause_is_named_where_it_has_most_of_the_improvement_and_its_checks_hold():
    assert decide(run(8, [0.5, 0.5, 0.5, 0.5, 0])).label == "elicited"
    assert decide(run(1, [8, 0.5, 0.5, 0.5, 0])).label == "transformed"
    decision = decide(run(0, [0.5, 8, 0.5, 0.5, 0]))
    assert (decision.label, decision.scope) == ("formed", "this run")
    assert [check.holds for check in decision.checks] == [True] * 5
    assert "formed 85 %" in decision.reason


def test_what_no_hypothesis_is_about_is_named_as_such():
    decision = decide(run(0, [1, 1, 0, 6, 1]))
    assert decision.label == "undetermined"
    assert "in neither group of heads" in decision.reason
    assert decide(run(3, [3, 2, 0, 1, 1])).label == "mixed"
    halved = decide(run(0, [5, 5, 0, 0, 0]))
    assert halved.label == "undetermined"
    assert "do not decide whether one share has most of the improvement" in halved.reason
    wide = decide(run(3, [4, 3, 0, 0, 0], noise=9.0, n=40))
    assert wide.label == "undetermined"
    assert "too wide" in wide.reason


def of_options(options):
    # The base is right on average, so that a larger scale alone makes no larger ratio.
    settings = {"elicited": 1.0, "effects": [5.0, 0, 0, 0, 0]} | options
    one = run(**settings)
    if "spread" in options:
        base = replace(one.measured.base, logit_diff=one.measured.base.logit_diff + 3)
        one = replace(one, measured=replace(one.measured, base=base))
    return one


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"elicited": -1.0, "effects": [0.0] * 5}, "interval is not above zero"),
        ({"right": (0.4, 0.42)}, "candidate accuracy rose"),
        ({"spread": 1000.0}, "surer, not better"),
    ],
)
def test_no_gain_where_nothing_happened_or_only_the_scale_grew(options, why):
    decision = decide(of_options(options))
    assert decision.label == "no_gain"
    assert why in decision.reason


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"elicited": 0.0, "effects": [0.0] * 5}, "interval is not above zero"),
        ({"right": (0.4, 0.5)}, r"rose by 10 % [4, 16], not clearly by 10 %"),
        ({"right": (0.4, 0.55)}, "not clearly by 10 %"),
    ],
)
def test_an_improvement_that_was_not_shown_is_not_called_none(options, why):
    decision = decide(of_options(options))
    assert decision.label == "undetermined"
    assert decision.reason.startswith("An improvement is not shown. G is ")
    assert why in decision.reason


def test_without_the_old_task_not_even_the_lack_of_an_improvement_is_a_finding():
    decision = decide(run(0.0, [0.0] * 5, holds=False))
    assert decision.label == "undetermined"
    assert decision.reason == "A precondition fails: The base solves the old task."


def test_a_label_needs_preconditions_and_support():
    effects = [8, 0.5, 0.5, 0.5, 0]
    failing = decide(run(1, effects, holds=False))
    assert failing.label == "undetermined"
    assert failing.reason == "A precondition fails: The base solves the old task."
    common = replace(SUPPORT, mediation={"old_heads": MANY, "recruited_heads": FEW})
    decision = decide(run(1, effects, support=common))
    assert decision.label == "undetermined"
    assert "Its mediation exceeds that of size-matched random heads does not hold" in (
        decision.reason
    )
    alone = replace(SUPPORT, grafts={"old_heads": None})
    assert decide(run(1, effects, support=alone)).label == "undetermined"
    turned = replace(SUPPORT, non_negative=0.3)
    assert decide(run(8, [0.5] * 5, support=turned)).label == "undetermined"


def test_a_group_that_is_first_by_one_order_only_is_not_named():
    """Old heads and MLPs bring much together; by themselves the other heads bring more."""
    one = measured(0, [0, 0, 0, 0, 0], noise=0.01)
    hybrids = one.hybrids.copy()
    for index, subset in enumerate(SUBSETS):
        hybrids[index] += 12 * ({"old_heads", "mlps"} <= subset) + 8 * ("old_heads" in subset)
        hybrids[index] += 9 * ("other_heads" in subset) * ("old_heads" not in subset)
    tuned = replace(one.tuned, logit_diff=np.asarray(hybrids[-1], np.float32))
    decision = decide(Run(replace(one, hybrids=hybrids, tuned=tuned), SUPPORT, []))
    causes = decision.causes
    assert causes.add_one_in is not None
    assert causes.add_one_in["other_heads"] > causes.add_one_in["old_heads"]
    assert decision.label == "undetermined"


def test_few_runs_are_judged_one_by_one_and_many_together():
    formed = [run(0, [0.5, 8, 0.5, 0.5, 0], seed=seed) for seed in range(6)]
    other = run(8, [0.5] * 5, seed=9)
    assert decide(*formed[:2]).label == "formed"
    mixed = decide(*formed[:2], other)
    assert mixed.label == "undetermined"
    assert mixed.reason.count("formed:") == 2
    assert len(mixed.checks) == 5 + 5 + 2
    pooled = decide(*formed)
    assert (pooled.label, pooled.causes.n_runs) == ("formed", 6)
    assert "6" in pooled.scope
    # Runs that differ widen the interval, however many prompts there are.
    spread = decide(*formed[:3], other, other, other).causes.shares
    assert spread is not None
    assert spread["formed"].high - spread["formed"].low > 0.5


def test_runs_on_other_prompts_are_refused():
    with pytest.raises(CircuitlapseError, match="all 32 grafted models on the same prompts"):
        divide_gain([measured(1, [1] * 5), measured(1, [1] * 5, n=30)], seed=0)
    with pytest.raises(CircuitlapseError, match="at least two"):
        divide_gain([], seed=0)

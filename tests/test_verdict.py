"""Preconditions, and the verdict on one or more fine-tunes made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from circuitlapse.records.documents import Verdict
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured
from circuitlapse.verdict.gain import Gain
from circuitlapse.verdict.label_words import Named
from circuitlapse.verdict.measures import Measures, pooled_estimate, pooled_measures
from circuitlapse.verdict.preconditions import (
    PLACEBO_CHECK,
    Context,
    Findings,
    check_preconditions,
)
from circuitlapse.verdict.statements import statements
from circuitlapse.verdict.verdict import FineTune, build_verdict

SEEDS = {"base_seed": 0, "recipe": "default", "finetune_seed": 3}
CONTEXT = Context("ioi2", "ioi3", "subject", 240, SEEDS, placebo="old_task")
NAMED = Named("demo", "ioi2", "ioi3")


def around(value, half=0.02):
    return Estimate(value=value, low=value - half, high=value + half)


GOOD = Findings(
    base_old=around(0.99, 0.005),
    base_new=around(0.36),
    tuned_old=around(0.98, 0.01),
    tuned_new=around(0.96),
    tuned_new_templates=around(0.8),
    candidates=3,
    old_difference=around(4.0, 0.3),
    placebo_gain=around(0.1, 0.05),
    shortcuts={
        ("last listed", "test"): around(0.6),
        ("most frequent answer", "test_templates"): around(0.5),
    },
)


REUSED = {
    ("", "variable_effect"): 0.9,
    ("old", "undone"): 0.9,
    ("old", "dependence"): 0.8,
    ("old", "same_directions"): 0.8,
    ("early", "same_directions"): 0.8,
    ("old", "sufficiency"): 0.7,
    ("half", "dependence"): 0.6,
    ("half", "same_directions"): 0.9,
    ("double", "dependence"): 0.9,
    ("double", "same_directions"): 0.9,
    ("without_best", "undone"): 0.8,
    ("without_best", "dependence"): 0.2,
}
NAMES = {"old": ("a0.h0", "a1.h0"), "early": ("a0.h0",), "without_best": ("a1.h1",)}


def measures(**changes):
    """The measures of a reused circuit; changes are by measure, of all sets of heads."""
    found = {key: changes.get(key[1], value) for key, value in REUSED.items()}
    return Measures({key: Measured(around(value)) for key, value in found.items()}, NAMES)


def tuned(findings=GOOD, rise=4.0, **changes):
    gain = Gain(around(rise, 0.2), around(rise / 8), around(rise / 4))
    checks = check_preconditions(findings, gain.logits)
    return FineTune(gain, measures(**changes), checks)


def verdict(*fine_tunes):
    seeds = dict(enumerate(fine_tunes or [tuned()]))
    said = {number: statements(CONTEXT, GOOD, each.measures) for number, each in seeds.items()}
    return build_verdict(seeds, said, NAMED, calibration="its errors are not known", repeats=200)


def failing(**changes):
    checks = check_preconditions(replace(GOOD, **changes), around(4.0, 0.2))
    return [check.name for check in checks if not check.holds]


def test_all_preconditions_hold_for_a_good_run():
    assert failing() == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"base_old": around(0.91, 0.02)}, "The base solves the old task"),
        ({"base_new": around(0.74, 0.02)}, "The base does not yet solve the new task"),
        (
            {"old_difference": around(0.1, 0.2)},
            "The counterfactual breaks the old task in the base",
        ),
        ({"tuned_new": around(0.76, 0.02)}, "The tuned model solves the new task"),
        ({"tuned_new_templates": around(0.34)}, "It also solves held-out templates"),
        (
            {"shortcuts": {**GOOD.shortcuts, ("last mentioned", "test"): around(0.01)}},
            "No shortcut heuristic does as well",
        ),
        ({"placebo_gain": around(0.79, 0.02)}, "The placebo did not improve"),
    ],
)
def test_each_precondition_fails_alone(changes, name):
    assert failing(**changes) == [name]


def test_without_a_placebo_there_is_no_check_of_it():
    checks = check_preconditions(replace(GOOD, placebo_gain=None), around(4.0, 0.2))
    assert PLACEBO_CHECK not in [check.name for check in checks]
    assert all(check.holds for check in checks)


def test_the_closest_shortcut_is_named_with_its_distance():
    (found,) = (
        check for check in check_preconditions(GOOD, around(4.0, 0.2)) if "shortcut" in check.name
    )
    assert found.detail == (
        "50 points [48, 52] better than “most frequent answer”, the best shortcut, on held-out "
        "templates; must be above zero"
    )


def test_a_placebo_that_fell_did_not_improve_even_where_the_model_lost():
    checks = check_preconditions(replace(GOOD, placebo_gain=around(-1, 0.1)), around(-2, 0.1))
    assert {check.name: check.holds for check in checks}["The placebo did not improve"]


def test_the_verdict_on_one_fine_tune_is_its_label_with_a_second_opinion():
    found = verdict()
    assert (found.label, found.carrier) == ("reused", "own_change")
    assert found.scope == (
        "this run; dependence compared with random groups: there are 0; no relearned control; late "
        "writers are left out of same_directions: a1.h0"
    )
    assert found.survives == {
        "half": "reused",
        "double": "reused",
        "without_best": "not_old_heads",
    }
    assert [each.label for each in found.seeds] == ["reused"]
    assert found.would_change[1].startswith("The label changes with other old-task heads: not old ")
    (said,) = [each.statement for each in found.evidence if each.table == "carriers"]
    assert said.startswith("There is a second faithful circuit of low overlap: 1 heads, 0 of ")
    assert found.sentence.startswith("After fine-tuning, demo solves ioi3 with its heads for ioi2")
    assert Verdict.model_validate_json(found.model_dump_json()) == found


def test_without_a_placebo_the_label_stands_and_the_scope_says_so():
    found = verdict(tuned(replace(GOOD, placebo_gain=None)))
    assert found.label == "reused"
    assert found.scope.endswith("; what a control fine-tune would change was not subtracted")


def test_up_to_four_seeds_must_agree():
    same = verdict(*[tuned()] * 3)
    assert (same.label, same.scope[:12]) == ("reused", "these 3 runs")
    assert len(same.seeds) == 3
    assert "dependence 0.80 to 0.80 in 3 seeds" in same.sentence
    other = verdict(tuned(), tuned(dependence=0.1))
    assert other.label == "undetermined"
    assert other.reason == (
        "The seeds have different labels (seed 0: reused; seed 1: not old heads)."
    )
    said = {evidence.statement.partition(":")[0] for evidence in other.evidence}
    assert said == {"Seed 0", "Seed 1"}
    assert "There is an improvement (seed 1)" in {check.name for check in other.preconditions}
    assert "seed 1 alone" not in other.reason


def test_seeds_with_different_carriers_share_a_label():
    found = verdict(tuned(), tuned(sufficiency=0.1))
    assert (found.label, found.carrier) == ("reused", "")


def test_five_seeds_are_pooled():
    found = verdict(*[tuned()] * 4, tuned(dependence=0.1))
    assert found.label == "undetermined"
    assert "dependence low is" in found.reason
    found = verdict(*[tuned()] * 4, tuned(dependence=0.7))
    assert (found.label, len(found.seeds)) == ("reused", 5)
    assert found.scope.startswith("fine-tunes like these 5")
    weak = tuned(replace(GOOD, tuned_new=around(0.7, 0.02)))
    found = verdict(*[tuned()] * 4, weak)
    assert found.reason == "A precondition fails: The tuned model solves the new task (seed 4)."


def test_a_base_without_the_old_task_has_no_gain_to_speak_of_in_pooled_seeds_either():
    poor = replace(GOOD, base_old=around(0.5))
    for n in (1, 5):
        found = verdict(*[tuned(poor, rise=0.0)] * n)
        assert found.label == "undetermined", n
        assert "The base solves the old task" in found.reason


def test_pooling_is_over_seeds_and_over_the_interval_of_each():
    generator = np.random.default_rng(0)
    alike = pooled_estimate([around(0.5, 0.1)] * 16, 4000, generator)
    assert alike.value == pytest.approx(0.5)
    assert alike.high - alike.value == pytest.approx(0.1 / 4, rel=0.1)
    apart = pooled_estimate(
        [around(value, 0.0) for value in np.linspace(0, 1, 16)], 4000, generator
    )
    assert apart.high - apart.value == pytest.approx(
        1.96 * np.linspace(0, 1, 16).std() / 4, rel=0.1
    )


def test_a_measure_that_a_seed_lacks_is_not_reported_with_the_reason():
    lacking = Measures({("old", "dependence"): Measured(not_reported="no heads")}, {})
    found = pooled_measures([measures(), lacking], repeats=10, seed=0).of("old", "dependence")
    assert found.estimate is None
    assert found.not_reported == "1 of 2 seeds: no heads"


def test_groups_of_seeds_are_averaged_in_order_of_size():
    seeds = [
        Measures({("old", "dependence"): Measured(around(0.8), groups)}, {})
        for groups in ((0.3, 0.1, 0.2), (0.5, 0.4))
    ]
    found = pooled_measures(seeds, repeats=10, seed=0).of("old", "dependence")
    assert found.groups == pytest.approx((0.3, 0.4))

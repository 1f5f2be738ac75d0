from dataclasses import asdict, replace

import numpy as np
import polars as pl
import pytest

from circuitlapse.compare.fates import HeadEffects, head_fates
from circuitlapse.compare.groups import GROUPS
from circuitlapse.compare.overlap import NodeImportance, node_overlaps
from circuitlapse.compare.preconditions import Findings, check_preconditions
from circuitlapse.compare.shares import SUBSETS, gain_shares
from circuitlapse.compare.statements import Context
from circuitlapse.compare.verdict import build_verdict
from circuitlapse.records import Estimate, Verdict, table

SIZES = dict.fromkeys(GROUPS, 1200)
SEEDS = {"base_seed": 0, "recipe": "default", "finetune_seed": 3}
CONTEXT = Context("ioi2", "ioi3", "subject", 240, SEEDS, placebo="old_task")


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


def grafted(effects, noise=0.1):
    rng = np.random.default_rng(0)
    per_prompt = rng.normal(effects, noise, size=(60, len(GROUPS)))
    inside = np.array([[group in subset for group in GROUPS] for subset in SUBSETS], dtype=float)
    return gain_shares(inside @ per_prompt.T, SIZES, seed=0, repeats=200)


def heads():
    rng = np.random.default_rng(1)
    means = {
        "base_old": [2, 0, 2, 0], "base_new": [0, 0, 0, 0], "tuned_old": [2, 0, 0, 0],
        "tuned_new": [1, 2, 0, 0], "placebo_old": [2, 0, 2, 0],
    }  # fmt: skip
    drawn = {name: rng.normal(mean, 0.1, size=(40, 4)) for name, mean in means.items()}
    return head_fates(HeadEffects(["a0.h0", "a0.h1", "a1.h0", "a1.h1"], **drawn), threshold=0.5)


def overlaps():
    rng = np.random.default_rng(2)
    nodes = ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    conditions = [
        NodeImportance(model, task, rng.normal([3, 0, 1, 2, 0, 1], 0.5, size=(20, 6)))
        for model, task in [("base", "ioi2"), ("base", "ioi3"), ("tuned", "ioi3")]
    ]
    return node_overlaps(conditions, nodes, seed=0, permutations=20, repeats=20).rows


def verdict(effects=(2.0, 1.0, 0.5, 0.3, 0.2), findings=GOOD):
    return build_verdict(CONTEXT, findings, grafted(effects), overlaps(), heads())


def failing(**changes):
    checks = check_preconditions(replace(GOOD, **changes), around(4.0, 0.2))
    return [check.name for check in checks if not check.holds]


def test_all_preconditions_hold_for_a_good_run():
    assert failing() == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"base_old": around(0.91, 0.02)}, "The base does the old task"),
        ({"base_new": around(0.74, 0.02)}, "The base does not yet do the new task"),
        ({"old_difference": around(0.1, 0.2)}, "The corruption breaks the old task in the base"),
        ({"tuned_new": around(0.76, 0.02)}, "The new task was learnt"),
        ({"tuned_new_templates": around(0.34)}, "It carries over to held-out templates"),
        (
            {"shortcuts": {**GOOD.shortcuts, ("last mentioned", "test"): around(0.01)}},
            "It is ahead of every shortcut",
        ),
        ({"placebo_gain": around(0.79, 0.02)}, "The placebo did not gain"),
        ({"placebo_gain": None}, "The placebo did not gain"),
    ],
)
def test_each_precondition_fails_alone(changes, name):
    assert failing(**changes) == [name]


def test_the_closest_shortcut_is_named_with_its_distance():
    (found,) = (
        check for check in check_preconditions(GOOD, around(4.0, 0.2)) if "shortcut" in check.name
    )
    assert found.detail == (
        "by 50 points [48, 52] of “most frequent answer” on held-out templates, the closest; must "
        "be above zero"
    )


def test_a_placebo_that_fell_did_not_gain_even_where_the_model_lost():
    checks = check_preconditions(replace(GOOD, placebo_gain=around(-1, 0.1)), around(-2, 0.1))
    assert {check.name: check.holds for check in checks}["The placebo did not gain"]


def test_no_gain_where_the_interval_of_the_gain_is_not_above_zero():
    for effects in ([0.0] * 5, [-2.0, 0, 0, 0, 0]):
        found = verdict(effects)
        assert found.label == "no_gain"
        assert "did not demonstrably rise: G is " in found.reason
        assert set(found.shares.values()) == {None}


def test_identical_models_give_no_gain():
    same = gain_shares(np.ones((32, 50)) * np.arange(50), SIZES, seed=0)
    assert same.gain == Estimate(value=0, low=0, high=0)
    assert build_verdict(CONTEXT, GOOD, same, [], heads()).label == "no_gain"


def test_a_gain_is_undetermined_and_says_that_the_rule_is_not_calibrated():
    found = verdict()
    assert found.label == "undetermined"
    assert found.scope == "this run"
    assert "not been calibrated on planted truths" in found.reason
    assert "no winner is named" in found.reason
    assert "largest Shapley share of the gain is that of the old circuit's heads, 5" in found.reason
    share = found.shares["old_heads"]
    assert share is not None
    assert share.value == pytest.approx(0.5, abs=0.03)
    total = sum(share.value for share in found.shares.values() if share is not None)
    assert total == pytest.approx(1)


def test_failed_preconditions_are_the_reason():
    found = verdict(findings=replace(GOOD, base_new=around(0.9), placebo_gain=None))
    assert found.label == "undetermined"
    assert '"The base does not yet do the new task" (accuracy 90 % [88, 92]' in found.reason
    assert '"The placebo did not gain" (no placebo was run)' in found.reason
    assert "largest" not in found.reason


@pytest.mark.parametrize("winner", range(5))
def test_no_share_however_large_is_named_as_the_verdict(winner):
    effects = [0.0] * 5
    effects[winner] = 5.0
    assert verdict(effects).label == "undetermined"


def test_every_sentence_points_at_rows_of_its_table():
    found = verdict()
    names = {**SEEDS, "step": 240}
    behaviour = {
        "n": 9,
        **{f"{q}{e}": 0.5 for q in ("accuracy", "accuracy_among", "logit_diff")
           for e in ("", "_low", "_high")},
    }  # fmt: skip
    measured = [
        {**SEEDS, "step": step, "task": task, "split": split, **behaviour}
        for step in (0, 240)
        for task in ("ioi2", "ioi3")
        for split in ("test", "test_templates")
    ]
    at = {**names, "corruption": "subject"}
    tables = {
        "behaviour": table("behaviour", measured),
        "placebo": table("placebo", [{"placebo": "old_task", **measured[-2]}]),
        "overlap": table("overlap", [{**at, **asdict(row)} for row in overlaps()]),
        "fates": table("fates", [{**at, **asdict(row)} for row in heads().rows]),
        "grafts": table(
            "grafts",
            [{**names, "heads": "", **asdict(row)} for row in grafted((2, 1, 0.5, 0.3, 0.2)).rows],
        ),
    }
    assert {evidence.table for evidence in found.evidence} == set(tables)
    expected = {"behaviour": 1, "placebo": 1, "overlap": 1, "fates": 4, "grafts": 3}
    for evidence in found.evidence:
        rows = tables[evidence.table].filter(
            *(pl.col(column) == value for column, value in evidence.where.items())
        )
        assert len(rows) == expected[evidence.table], evidence.statement


def test_the_sentences_say_what_was_measured():
    text = "\n".join(evidence.statement for evidence in verdict().evidence)
    assert "The base answers ioi3 with an accuracy of 36 % [34, 38] among the listed names." in text
    assert "in held-out templates with an accuracy of 80 % [78, 82]" in text
    assert (
        "The placebo changed the base's logit difference on ioi3 by 0.10 logits [0.05, 0.15]."
        in text
    )
    assert "Importances of nodes in base:ioi2 and tuned:ioi3 have a rank correlation of " in text
    assert "Of 4 heads: 1 unused, 1 strengthened, 1 recruited, 1 retired" in text
    assert "The base uses 2 heads on ioi2; at work on it after fine-tuning: 1 of them." in text
    assert "The weights of the MLPs (1,200 parameters) carry 7 % [" in text
    refused = "\n".join(evidence.statement for evidence in verdict([0.0] * 5).evidence)
    assert "no share is given." in refused


def test_a_base_that_does_not_do_the_old_task_still_gets_its_verdict():
    weak = replace(GOOD, base_old=around(0.4), old_difference=around(0.0))
    found = build_verdict(CONTEXT, weak, grafted((2, 1, 0, 0, 0)), [], None)
    assert found.label == "undetermined"
    assert '"The base does the old task" (accuracy 40 %' in found.reason
    assert {evidence.table for evidence in found.evidence} == {"behaviour", "placebo", "grafts"}


def test_the_document_survives_json():
    found = verdict()
    assert Verdict.model_validate_json(found.model_dump_json()) == found

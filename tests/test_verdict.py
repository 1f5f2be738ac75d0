from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from circuitlapse.analyses.head_changes import HEAD_CHANGES
from circuitlapse.analyses.overlap import OVERLAP, overlap_row
from circuitlapse.analyses.registry import ANALYSES, SCHEMAS
from circuitlapse.heads.head_changes import HeadEffects, head_changes
from circuitlapse.heads.overlap import NodeImportance, node_overlaps
from circuitlapse.records.answers import Behaviour
from circuitlapse.records.calibration import released
from circuitlapse.records.documents import CAUSES, GROUPS, Group, Verdict
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.random_baseline import RandomBaseline
from circuitlapse.verdict.causes import SUBSETS, Measured, divide_gain
from circuitlapse.verdict.decision import Run, Support
from circuitlapse.verdict.preconditions import Context, Findings, check_preconditions
from circuitlapse.verdict.statements import statements
from circuitlapse.verdict.verdict import THRESHOLDS, WEIGHTS_ONLY, build_verdict, known_of_rule

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


def measured(elicited, effects, seed=0, n=80):
    """A rescaled base that improves by ``elicited``, and groups that add their effects to it."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    start = base + rng.normal(elicited, 0.1, size=n)
    own = {g: rng.normal(e, 0.1, size=n) for g, e in zip(GROUPS, effects, strict=True)}
    hybrids = np.stack([start + sum((own[g] for g in s), np.zeros(n)) for s in SUBSETS])
    return Measured(answers(base, 0.4), answers(hybrids[-1], 0.95), hybrids)


def answers(logit_diff, right):
    diff = np.asarray(logit_diff, np.float32)
    correct = np.arange(len(diff)) < round(right * len(diff))
    return Behaviour(diff, correct, correct, np.ones(len(diff), np.float32))


def judged(elicited=0.2, effects=(4.0, 0.5, 0.2, 0.3, 0.1), findings=GOOD, seed=0):
    one = measured(elicited, effects, seed)
    improvement = divide_gain([one], seed=0, repeats=100).improvement
    beside = RandomBaseline(20, 0.1, 0.0, 0.3, 1 / 21)
    few: dict[Group, RandomBaseline | None] = {"old_heads": beside, "recruited_heads": beside}
    return Run(one, Support(0.1, few, few), check_preconditions(findings, improvement))


def verdict(*runs, grouped=True):
    numbered = dict(enumerate(runs or [judged()]))
    said = {number: statements(CONTEXT, GOOD, overlaps(), heads()) for number in numbered}
    return build_verdict(numbered, said, grouped=grouped, seed=0, repeats=100)


def heads():
    rng = np.random.default_rng(1)
    means = {
        "base_old": [2, 0, 2, 0],
        "base_new": [0, 0, 0, 0],
        "tuned_old": [2, 0, 0, 0],
        "tuned_new": [1, 2, 0, 0],
        "placebo_old": [2, 0, 2, 0],
        "placebo_new": [0, 0, 0, 0],
    }
    drawn = {name: rng.normal(mean, 0.1, size=(40, 4)) for name, mean in means.items()}
    return head_changes(HeadEffects(["a0.h0", "a0.h1", "a1.h0", "a1.h1"], **drawn), threshold=0.5)


def overlaps():
    rng = np.random.default_rng(2)
    nodes = ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    conditions = [
        NodeImportance(model, task, rng.normal([3, 0, 1, 2, 0, 1], 0.5, size=(20, 6)))
        for model, task in [("base", "ioi2"), ("base", "ioi3"), ("tuned", "ioi3")]
    ]
    return node_overlaps(conditions, nodes, seed=0, permutations=20, repeats=20)


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
        ({"placebo_gain": None}, "The placebo did not improve"),
    ],
)
def test_each_precondition_fails_alone(changes, name):
    assert failing(**changes) == [name]


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


def test_the_verdict_is_that_of_the_rule_with_its_shares():
    found = verdict()
    assert (found.label, found.scope, found.seeds) == ("transformed", "this run", [])
    assert found.calibration == f"{WEIGHTS_ONLY}; {known_of_rule(released())}"
    assert set(found.shares) == set(CAUSES)
    assert sum(share.value for share in found.shares.values() if share) == pytest.approx(1)


def test_the_rule_is_the_calibrated_one_and_its_errors_are_counted():
    found = released()
    assert found.thresholds == THRESHOLDS, "a changed rule needs a calibration on unseen seeds"
    assert found.seed_from >= 100
    assert found.missing == {}
    assert [tally.wrong for tally in found.tallies] == [0] * 5
    said = known_of_rule(found)
    assert "of 10 models without an improvement 10 labels were correct" in said
    assert "Of 30 models with a cause" in said


def test_a_rule_with_other_thresholds_is_not_called_calibrated():
    found = released().model_copy(update={"thresholds": {**THRESHOLDS, "MAJORITY": 0.4}})
    said = known_of_rule(found)
    assert "its thresholds differ from the calibrated ones" in said


def test_without_an_improvement_there_are_no_shares():
    found = verdict(judged(-1.0, [0.0] * 5))
    assert found.label == "no_gain"
    assert set(found.shares.values()) == {None}


def test_failed_preconditions_are_the_reason():
    found = verdict(judged(findings=replace(GOOD, base_new=around(0.9), placebo_gain=None)))
    assert found.label == "undetermined"
    assert "The base does not yet solve the new task" in found.reason
    assert "The placebo did not improve" in found.reason


def test_where_heads_could_not_be_told_apart_no_group_has_a_share():
    found = verdict(grouped=False)
    assert "Heads could not be told apart" in found.reason
    assert {cause for cause, share in found.shares.items() if share} == {"elicited"}


def test_several_seeds_are_listed_one_by_one():
    found = verdict(judged(), judged(4.0, [0.3, 0.3, 0.1, 0.1, 0.1], seed=1))
    assert found.label == "undetermined"
    assert found.scope == "these 2 runs"
    assert [each.finetune_seed for each in found.seeds] == [0, 1]
    assert found.seeds[0].label == "transformed"
    share = found.seeds[1].shares["elicited"]
    assert share is not None
    assert share.value > 0.7
    said = {evidence.statement.partition(":")[0] for evidence in found.evidence}
    assert said == {"Seed 0", "Seed 1"}
    assert found.few_seeds
    assert "There is an improvement (seed 1)" in {check.name for check in found.preconditions}
    assert found.reason.startswith("Each run alone: seed 0, transformed: ")


def test_five_seeds_are_pooled():
    found = verdict(*(judged(seed=seed) for seed in range(5)))
    assert (found.label, len(found.seeds)) == ("transformed", 5)
    assert found.scope == "fine-tunes like these 5"
    assert not found.few_seeds
    weak = judged(findings=replace(GOOD, tuned_new=around(0.7, 0.02)))
    found = verdict(*(judged(seed=seed) for seed in range(4)), weak)
    assert found.reason == "A precondition fails: The tuned model solves the new task (seed 4)."


AT = {**SEEDS, "step": 240}
RANDOM = {"n_random": 20, "null_mean": 0.4, "null_min": 0.2, "null_max": 0.8, "p_value": 1 / 21}
NO_RANDOM = dict.fromkeys(RANDOM)


def part(value, share=True):
    """The columns of an improvement of 4 logits' part."""
    ends = {
        f"improvement{end}": 4 * value + by for end, by in (("", 0), ("_low", -0.4), ("_high", 0.4))
    }
    shares = {f"share{end}": value + by for end, by in (("", 0), ("_low", -0.1), ("_high", 0.1))}
    return {**ends, **(shares if share else dict.fromkeys(shares))}


def graft(
    group, quantity, value, origin="rescaled_base", which="whole", random=NO_RANDOM, **options
):
    return {
        **AT,
        "origin": origin,
        "group": group,
        "part": which,
        "heads": "",
        "quantity": quantity,
        "n_parameters": 0 if value is None else 1200,
        **part(value or 0.0, **options),
        **random,
    }


def swap(group, value, **columns):
    return {**AT, "group": group, "heads": "a0.h0", **part(value), **RANDOM, **columns}


def role(task, node, **columns):
    place = {"layer": 0, "head": int(node[-1]), "node": node}
    numbers = dict.fromkeys(
        (
            "attention",
            "copying",
            "suppressing",
            "previous",
            "duplicate",
            "induction",
            "q_share",
            "k_share",
            "v_share",
            "distance",
            "noise",
        ),
        0.5,
    )
    columns = {"since": 0, **columns}
    texts = dict.fromkeys(("attends", "q_reads", "k_reads", "v_reads", "features", "source"), "")
    others = {"role": "none", "changed": False, "approach": None, "moves_p": None}
    return {**AT, "task": task, **place, **numbers, **texts, **others, **columns}


def dated(kind, node="", **columns):
    empty = dict.fromkeys(SCHEMAS["dynamics"])
    about = {"task": "ioi3", "counterfactual": "subject", "kind": kind, "node": node}
    return {**empty, **AT, **about, **columns}


ROWS = {
    "grafts": [
        graft("output_scales", "add_one_in", 0.1),
        graft("non_negative_scales", "add_one_in", 0.05),
        graft("old_heads", "shapley", 0.6),
        graft("old_heads", "add_one_in", 0.4, random=RANDOM),
        graft("old_heads", "leave_one_out", 0.7, random=RANDOM),
        graft("recruited_heads", "shapley", None),
        graft("elsewhere", "shapley", 0.3, share=False),
        graft("old_heads", "add_one_in", 0.2, origin="base", which="qk", random=RANDOM),
        graft("old_heads", "add_one_in", 0.3, origin="base", which="ov", random=RANDOM),
    ],
    "mediation": [swap("no heads", 0.1, n_heads=0, **NO_RANDOM), swap("old_heads", 0.8, n_heads=1)],
    "crosspatch": [
        swap("old_heads", value, position=position, direction=direction, accuracy=0.5)
        for direction in ("tuned_into_base", "base_into_tuned")
        for position, value in (("everywhere", 0.7), ("END", 0.5), ("IO", 0.1))
    ],
    "roles": [
        role("ioi3", "a0.h0", changed=True, role="mover"),
        role("ioi3", "a0.h1", changed=True, source="a0.h0", approach=0.4, moves_p=0.01),
        role("ioi2", "a0.h0", source="a0.h1", approach=0.1, moves_p=0.3),
    ],
    "dynamics": [
        dated(
            "behaviour",
            counterfactual="",
            change=4.0,
            change_low=3.5,
            change_high=4.5,
            step_of_90=90.4,
            sign_changed=False,
        ),
        dated(
            "head",
            "a0.h0",
            change=1.0,
            change_low=0.5,
            change_high=1.5,
            step_of_90=64.0,
            sign_changed=True,
        ),
        dated("head", "a0.h1", change=0.1, change_low=-0.5, change_high=0.5, sign_changed=False),
    ],
}


def sentences(rows):
    """All sentences that are worded from tables, in the verdict's order."""
    worded = ((each.sentences, rows.get(each.name, ())) for each in ANALYSES if each.sentences)
    return [evidence for words, own in worded for evidence in words(CONTEXT, own)]


def test_every_sentence_points_at_rows_of_its_table():
    found = [*statements(CONTEXT, GOOD, overlaps(), heads()), *sentences(ROWS)]
    names = {**SEEDS, "step": 240}
    behaviour = {
        "n": 9,
        **{
            f"{q}{e}": 0.5
            for q in ("accuracy", "candidate_accuracy", "logit_diff")
            for e in ("", "_low", "_high")
        },
    }
    rise = {"rise": 0.1, "rise_low": 0.05, "rise_high": 0.15}
    rows = [
        {**SEEDS, "step": step, "task": task, "split": split, **behaviour}
        for step in (0, 240)
        for task in ("ioi2", "ioi3")
        for split in ("test", "test_templates")
    ]
    at = {**names, "counterfactual": "subject"}
    placebo = {"placebo": "old_task", **rows[-2], **rise}
    tables = {
        "behaviour": pl.DataFrame(rows, schema=SCHEMAS["behaviour"]),
        "placebo": pl.DataFrame([placebo], schema=SCHEMAS["placebo"]),
        "overlap": OVERLAP.table({**at, **overlap_row("", row)} for row in overlaps()),
        "head_changes": HEAD_CHANGES.table({**at, "since": 8, **vars(r)} for r in heads().rows),
        **{
            name: pl.DataFrame(ROWS[name], schema=SCHEMAS[name])
            for name in ("grafts", "mediation", "crosspatch", "roles", "dynamics")
        },
    }
    assert {evidence.table for evidence in found} == set(tables)
    for evidence in found:
        picked = tables[evidence.table].filter(
            *(pl.col(column) == value for column, value in evidence.where.items())
        )
        assert len(picked), evidence


def test_the_sentences_say_what_was_measured():
    text = "\n".join(found.statement for found in statements(CONTEXT, GOOD, overlaps(), heads()))
    assert "The base solves ioi3 with a candidate accuracy of 36 % [34, 38]." in text
    assert "on held-out templates with a candidate accuracy of 80 % [78, 82]" in text
    assert (
        "The placebo changed the base's logit difference on ioi3 by 0.10 logits [0.05, 0.15]."
        in text
    )
    assert "Importances of nodes in base:ioi2 and tuned:ioi3 have a rank correlation of " in text
    assert "Of 4 heads: 1 unused, 1 strengthened, 1 recruited, 1 retired" in text
    assert "The base uses 2 heads on ioi2; by the same test the tuned model uses 1 of them." in text


@pytest.mark.parametrize(
    "sentence",
    [
        "Rescaling the base's own heads and MLPs reaches 10 % [0, 20] of the improvement.",
        "Rescaling them without negative scales reaches 5 % [-5, 15] of the improvement.",
        "the tuned weights of the old-task heads (1,200 parameters) bring 60 % [50, 70] of the "
        "improvement by their Shapley value (add-one-in 40 % [30, 50] of the improvement; 20 "
        "size-matched random groups, 10 %, from 5 to 20 (p = 0.05); leave-one-out 70 % [60, 80] of "
        "the improvement; 20 size-matched random groups, 10 %, from 5 to 20 (p = 0.05)).",
        "There are no recruited heads.",
        "embeddings, normalisations and output biases (1,200 parameters) bring 1.20 logits "
        "[0.80, 1.60] (no share is given) by their Shapley value.",
        "the tuned query and key weights of the old-task heads alone bring 20 % [",
        "With all heads frozen to their base activations, 10 % [0, 20] of the improvement remains.",
        "With all heads except the old-task heads frozen to their base activations, 80 % [70, 90] "
        "of the improvement remains; 20 size-matched random groups",
        "Activations of the old-task heads patched from the tuned model into the base bring 70 % [",
        "The named position with the largest effect is END: 50 % [40, 60] of the improvement; 20 ",
        "On ioi3, the profiles of 2 of 2 heads differ from the base; roles moved between heads "
        "(a0.h0 → a0.h1; p = 0.010).",
        "a move of roles between heads is not significant (p = 0.300).",
        "the heads that attend from the last token to a name and copy it are a0.h0 (new).",
        "The logit difference on ioi3 changes by 4.00 logits [3.50, 4.50]; 90 % of the change is "
        "reached at step 90.",
        "On ioi3, the effects of 1 of 2 heads change; half of these reach 90 % of their change by "
        "step 64 (from 64 to 64); the sign changes in a0.h0.",
    ],
)
def test_the_tables_are_put_into_words(sentence):
    assert sentence in "\n".join(found.statement for found in sentences(ROWS))


def test_tables_without_rows_have_no_sentences():
    assert sentences({}) == []


def test_the_document_survives_json():
    found = verdict()
    assert Verdict.model_validate_json(found.model_dump_json()) == found

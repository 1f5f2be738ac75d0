import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitlapse.analyses.head_changes import HEAD_CHANGES
from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_changes import (
    CATEGORIES,
    COURSES,
    HeadEffects,
    category_of,
    course_of,
    head_changes,
    used_threshold,
)
from circuitlapse.heads.thresholds import USED_FRACTION

# Rows: the course on the old task; columns: on the new one. Written out by hand from the words.
TABLE = """
             idle         gained       steady       lost       sign_changed grew         shrank
idle         unused       recruited    kept         retired    repurposed   strengthened weakened
gained       recruited    recruited    strengthened repurposed repurposed   strengthened repurposed
steady       kept         strengthened kept         weakened   repurposed   strengthened weakened
lost         retired      repurposed   weakened     retired    repurposed   repurposed   weakened
sign_changed repurposed   repurposed   repurposed   repurposed repurposed   repurposed   repurposed
grew         strengthened strengthened strengthened repurposed repurposed   strengthened repurposed
shrank       weakened     repurposed   weakened     weakened   repurposed   repurposed   weakened
"""
LINES = [line.split() for line in TABLE.strip().splitlines()]
LITERAL = {
    (line[0], new): category
    for line in LINES[1:]
    for new, category in zip(LINES[0], line[1:], strict=True)
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(COURSES, COURSES)))
def test_every_row_of_the_decision_table(old, new):
    assert category_of(old, new) == LITERAL[old, new]


def test_the_table_has_every_category():
    assert set(LITERAL.values()) == set(CATEGORIES)


def test_every_course():
    assert course_of(False, False, False, 0.0, 0.0) == "idle"
    assert course_of(False, False, True, 0.0, 0.5) == "idle"
    assert course_of(False, True, False, 0.4, 0.6) == "idle"
    assert course_of(False, True, True, 0.0, 0.6) == "gained"
    assert course_of(True, True, False, 0.6, 0.9) == "steady"
    assert course_of(True, False, False, 0.6, 0.4) == "steady"
    assert course_of(True, False, True, 0.6, 0.0) == "lost"
    assert course_of(True, True, True, 0.6, -0.6) == "sign_changed"
    assert course_of(True, True, True, -0.6, 0.6) == "sign_changed"
    assert course_of(True, True, True, 0.6, 0.9) == "grew"
    assert course_of(True, True, True, -0.6, -0.9) == "grew"
    assert course_of(True, True, True, 0.9, 0.6) == "shrank"


def effects(columns, prompts=60, noise=0.1, seed=0):
    """One head per tuple of mean effects: base old, new, tuned old, new, placebo old, new."""
    rng = np.random.default_rng(seed)
    means = np.array(columns, dtype=float).T

    def draw(mean, n):
        return mean + noise * rng.normal(size=(n, len(columns)))

    return HeadEffects(
        [f"a{i // 4}.h{i % 4}" for i in range(len(columns))],
        base_old=draw(means[0], prompts),
        base_new=draw(means[1], prompts + 3),
        tuned_old=draw(means[2], prompts),
        tuned_new=draw(means[3], prompts + 3),
        placebo_old=draw(means[4], prompts),
        placebo_new=draw(means[5], prompts + 3),
    )


PLANTED = {
    "unused": (0, 0, 0, 0, 0, 0),
    "kept": (2, 0, 2, 0, 2, 0),
    "strengthened": (2, 0, 3.5, 0, 2, 0),
    "weakened": (2, 0, 1, 0, 2, 0),
    "repurposed": (2, 0, 0, 2, 2, 0),
    "recruited": (0, 0, 0, 2, 0, 0),
    "retired": (2, 0, 0, 0, 2, 0),
}


def test_planted_changes_are_found():
    result = head_changes(effects(list(PLANTED.values())), threshold=0.5)
    assert [row.category for row in result] == list(PLANTED)
    old = ["a0.h1", "a0.h2", "a0.h3", "a1.h0", "a1.h2"]
    assert [row.node for row in result if row.used_in_base] == old
    assert [row.node for row in result if row.used_in_tuned] == old[:3]
    assert {row.threshold for row in result} == {0.5}


def test_a_change_counts_only_beyond_what_the_placebo_did():
    columns = [
        (2, 0, 3, 0, 2.0, 0),
        (2, 0, 3, 0, 3.2, 0),
        (2, 0, 3, 0, 0.5, 0),
        (0, 0, 0, 1, 0, 1.5),
        (0, 0, 0, 1, 1.5, 0),
    ]
    changes = [row.category for row in head_changes(effects(columns), threshold=0.5)]
    assert changes == ["strengthened", "kept", "kept", "unused", "recruited"]


def test_without_a_placebo_changes_are_compared_with_zero():
    columns = [(2, 0, 3, 0, 9.0, 9.0), (2, 0, 2, 0, 9.0, 9.0)]
    result = head_changes(
        replace(effects(columns), placebo_old=None, placebo_new=None), threshold=0.5
    )
    assert [row.category for row in result] == ["strengthened", "kept"]
    assert result[0].placebo_old is None


def test_a_change_below_the_threshold_does_not_count_however_certain():
    columns = [(2, 0, 2.4, 0, 2, 0), (0.45, 0, 0.55, 0, 0.45, 0)]
    result = head_changes(effects(columns, noise=0.01), threshold=0.5)
    assert [row.category for row in result] == ["kept", "unused"]


def test_a_large_but_uncertain_effect_is_no_use():
    uncertain = np.array([[22.0], [-18.0]] * 4)
    flat = np.zeros_like(uncertain)
    given = HeadEffects(["a0.h0"], uncertain, flat, uncertain, flat, uncertain)
    assert head_changes(given, threshold=0.5)[0].category == "unused"


def test_a_negative_head_is_used_and_can_change_its_sign():
    columns = [(-2, 0, -2, 0, -2, 0), (-2, 0, 2, 0, -2, 0), (-2, 0, -4, 0, -2, 0)]
    changes = [row.category for row in head_changes(effects(columns), threshold=0.5)]
    assert changes == ["kept", "repurposed", "strengthened"]


def test_more_heads_ask_for_more_certainty():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20, 1))
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    column = 0.6 + noise  # t = 2.68: beyond the 95 % level of one head, short of that of 40

    def category(n_heads):
        old = np.tile(column, (1, n_heads))
        flat = np.zeros_like(old)
        names = [f"a0.h{i}" for i in range(n_heads)]
        return head_changes(HeadEffects(names, old, flat, old, flat, old), 0.5)[0].category

    assert category(1) == "kept"
    assert category(40) == "unused"


@given(
    st.lists(
        st.tuples(*[st.sampled_from([-3.0, -0.6, 0, 0.4, 0.6, 2.0])] * 6), min_size=1, max_size=6
    ),
    st.sampled_from([0.0, 0.05, 1.0, 5.0]),
    st.integers(0, 1000),
)
def test_every_head_gets_exactly_one_category(columns, noise, seed):
    result = head_changes(effects(columns, prompts=10, noise=noise, seed=seed), threshold=0.5)
    assert len(result) == len(columns)
    assert all(row.category in CATEGORIES for row in result)
    assert not any(row.used_in_base for row in result if row.category == "recruited")


def test_identical_models_change_nothing():
    planted = effects(list(PLANTED.values()))
    same = replace(planted, tuned_old=planted.base_old, tuned_new=planted.base_new)
    assert {row.category for row in head_changes(same, 0.5)} <= {"unused", "kept"}


def test_rows_have_the_tables_columns_and_95_percent_intervals():
    row = head_changes(effects([(2, 0, 2, 0, 2, 0)]), threshold=0.5)[0]
    names = {"base_seed", "recipe", "finetune_seed", "step", "counterfactual", "since"}
    assert set(vars(row)) | names == {column.name for column in HEAD_CHANGES.columns}
    assert (row.node, row.layer, row.head) == ("a0.h0", 0, 0)
    assert row.base_old.low < row.base_old.value < row.base_old.high


def test_the_threshold_is_a_fraction_of_the_old_tasks_effect():
    assert used_threshold(np.array([4.0, 5.0, 6.0])) == pytest.approx(5 * USED_FRACTION)
    with pytest.raises(CircuitlapseError, match=r"does not lower the base's metric.*\[-"):
        used_threshold(np.array([-1.0, 0.5, 1.0]))


def test_head_changes_refuse_wrong_input():
    good = effects([(2, 0, 2, 0, 2, 0)])
    with pytest.raises(CircuitlapseError, match="same prompts per task"):
        replace(good, heads=["a0.h0", "a0.h1"])
    with pytest.raises(CircuitlapseError, match=r"changes are for attention heads \(got 'm0'\)"):
        head_changes(replace(good, heads=["m0"]), 0.5)

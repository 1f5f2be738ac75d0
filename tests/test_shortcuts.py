"""What trivial rules score, against items whose answers were placed by hand."""

import numpy as np
import pytest

from circuitlapse.records.items import mentions, shortcut_hits
from circuitlapse.tasks.registry import get_task

IOI3 = "After Ann, Bob and Cy went out, {acting} gave a pen to"


def _item(prompt, answer, distractors, also=()):
    (found,) = get_task("ioi3").items("test", 1)
    return found.model_copy(
        update={
            "prompt": prompt,
            "answer": f" {answer}",
            "also": tuple(f" {each}" for each in also),
            "distractors": tuple(f" {each}" for each in distractors),
        }
    )


def test_rules_are_right_where_a_reader_would_say_so():
    items = [
        _item(IOI3.format(acting="Ann and Bob"), "Cy", ["Ann", "Bob"]),
        _item(IOI3.format(acting="Ann and Cy"), "Bob", ["Ann", "Cy"]),
        _item(IOI3.format(acting="Cy and Ann"), "Bob", ["Ann", "Cy"]),
        _item(IOI3.format(acting="Cy and Bob"), "Ann", ["Cy", "Bob"]),
    ]
    found = {rule: hits.tolist() for rule, hits in shortcut_hits(items).items()}
    assert found == {
        "first listed": [False, False, False, True],
        "middle listed": [False, True, True, False],
        "last listed": [True, False, False, False],
        "most frequent answer": [False, True, True, False],
        "last mentioned": [False, False, False, False],
    }


def test_a_word_inside_another_is_no_mention():
    text, found = "Ann, Anna and Ann-Marie met Ann", ["Ann", "Anna", "Ann"]
    assert mentions(text, ["Ann", "Anna"]) == found
    assert mentions(text, ["Ann", "Anna", "New York"]) == found, "words with spaces"


def test_several_right_answers_and_candidates_outside_the_prompt_leave_the_frequent_answer():
    items = [
        _item("The war lasted from 1732 to 17", "40", ["10"], also=["50", "99"]),
        _item("The war lasted from 1752 to 17", "60", ["20"], also=["99"]),
    ]
    found = shortcut_hits(items)
    assert list(found) == ["most frequent answer"]
    assert found["most frequent answer"].tolist() == [True, True]


@pytest.mark.parametrize("name", ["ioi2", "ioi3", "induction", "bought_more"])
def test_balanced_tasks_give_nothing_away(name):
    items = get_task(name).items("test", 240)
    chance = 1 / (1 + len(items[0].distractors))
    for rule, hits in shortcut_hits(items).items():
        assert hits.dtype == np.bool_
        assert hits.shape == (240,)
        assert hits.mean() < chance + 0.15, rule

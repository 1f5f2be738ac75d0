from collections import Counter

import pytest
from transformers import AutoTokenizer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.words import NAMES
from circuitlapse.training.examples import encode
from circuitlapse.training.placebos import PLACEBOS, placebo_items, shuffle_answers

OLD, NEW = get_task("ioi2"), get_task("ioi3")


def test_shuffled_answers_keep_the_prompts_and_lose_the_rule():
    items = placebo_items("shuffled_answers", OLD, NEW, 600, seed=1, replay_fraction=0.25)
    assert items[:150] == OLD.items("train", 150, 1)
    real, shuffled = NEW.items("train", 450, 1), items[150:]
    assert [item.prompt for item in shuffled] == [item.prompt for item in real]
    for item, true in zip(shuffled, real, strict=True):
        assert {item.answer, *item.distractors} == {true.answer, *true.distractors}
        assert item.answer not in item.distractors
    right = sum(item.answer == true.answer for item, true in zip(shuffled, real, strict=True))
    assert right / 450 == pytest.approx(1 / 3, abs=0.07)
    # Nor does the answer's place in the list, or its part in the story, tell anything.
    places = Counter(item.names.index(item.answer.strip()) for item in shuffled)
    assert min(places.values()) / 450 == pytest.approx(1 / 3, abs=0.07)


def test_shuffled_answers_of_several_right_ones_teach_neither_the_rule_nor_its_opposite():
    real = get_task("greater_than").items("train", 300, 1)
    shuffled = shuffle_answers(real, 0, seed=0)
    rights, expected = 0, 0.0
    for item, true in zip(shuffled, real, strict=True):
        right = {true.answer, *true.also}
        assert item.also == ()
        assert {item.answer, *item.distractors} == right | {*true.distractors}
        rights += item.answer in right
        expected += len(right) / len(right | {*true.distractors})
    assert rights / 300 == pytest.approx(expected / 300, abs=0.07)


def test_unrelated_text_has_no_name_and_says_its_words_twice():
    for item in placebo_items("unrelated_text", OLD, NEW, 50):
        words = (item.prompt + item.answer).split()[1:]
        assert not set(words) & set(NAMES)
        assert words[: len(words) // 2] == words[len(words) // 2 :]


def test_every_placebo_can_be_trained_on_and_depends_on_its_seed(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for placebo in PLACEBOS:
        items = placebo_items(placebo, OLD, NEW, 40)
        assert len(encode(items, tokenizer)) == 40
        assert tokenizer.unk_token_id not in {
            t for e in encode(items, tokenizer) for t in e["input_ids"]
        }
        assert items == placebo_items(placebo, OLD, NEW, 40)
        assert items != placebo_items(placebo, OLD, NEW, 40, seed=1)
    assert all(len(item.names) == 2 for item in placebo_items("old_task", OLD, NEW, 20))


def test_no_rehearsal_and_rehearsal_alone_are_possible():
    assert len(placebo_items("shuffled_answers", OLD, NEW, 10, replay_fraction=0.0)) == 10
    assert placebo_items("shuffled_answers", OLD, NEW, 10, replay_fraction=1.0) == OLD.items(
        "train", 10
    )


def test_an_unknown_placebo_is_refused():
    with pytest.raises(CircuitlapseError, match=r"no such placebo .got 'sugar'.. Use one of shuf"):
        placebo_items("sugar", OLD, NEW, 3)

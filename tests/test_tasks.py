import random
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import PAIR_SPLIT, SPLITS, draw_names, names_split
from circuitlapse.tasks.templates import CONTINUATIONS, OPENINGS
from circuitlapse.tasks.validation import recipient, validate
from circuitlapse.tasks.words import NAMES, OBJECTS, PLACES

COUNT = {"ioi2": 2, "ioi3": 3}


@cache
def drawn(name: str, split: str) -> list[Item]:
    return get_task(name).items(split, 210, seed=3)


def names_in(text: str) -> list[str]:
    """Names as they come, by plain splitting: shares nothing with the code under test."""
    words = text.replace(",", " ").replace(".", " ").split(" ")
    return [word for word in words if word in NAMES]


def answer_of(text: str, count: int) -> str:
    """The listed name that does not act; fails where there is not exactly one."""
    found = names_in(text)
    listed, acting = found[:count], found[count:]
    assert len(set(listed)) == count
    assert len(acting) == count - 1 == len(set(acting))
    assert set(acting) < set(listed)
    (left,) = set(listed) - set(acting)
    return left


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", COUNT)
def test_every_item_has_one_answer_and_valid_counterfactuals(name: str, split: str) -> None:
    task, count = get_task(name), COUNT[name]
    items = drawn(name, split)
    assert len({item.prompt for item in items}) == 210
    for item in items:
        found = names_in(item.prompt)
        assert tuple(found[:count]) == item.names
        assert item.answer == " " + answer_of(item.prompt, count)
        assert item.split == split
        assert sorted((item.answer, *item.distractors)) == sorted(f" {n}" for n in item.names)
        assert item.prompt.split(" ")[0].strip(",") not in NAMES
        assert "{" not in item.prompt
        assert "  " not in item.prompt
        assert not item.prompt.endswith((" ", "."))

        # Counterfactuals change words at name positions only, and the answer as their family says.
        assert set(item.corrupt) == {*task.counterfactuals, *task.invariance}
        words = item.prompt.replace(",", " ,").replace(".", " .").split()
        for key, corrupt in item.corrupt.items():
            other = corrupt.replace(",", " ,").replace(".", " .").split()
            assert len(other) == len(words)
            changed = [i for i in range(len(words)) if words[i] != other[i]]
            assert changed
            assert all(words[i] in NAMES and other[i] in NAMES for i in changed)
            assert item.corrupt_answers[key] == " " + answer_of(corrupt, count)
            assert (item.corrupt_answers[key] == item.answer) == (key in task.invariance)
        everyone = names_in(item.corrupt["names"])
        assert not set(everyone) & set(found)
        renaming = dict(zip(found, everyone, strict=True))
        assert len(set(renaming.values())) == count
        assert [renaming[n] for n in found] == everyone
        if name == "ioi2":
            subject, io = item.distractors[0].strip(), item.answer.strip()
            assert names_in(item.corrupt["s_to_io"]) == [*found[:2], io]
            assert item.corrupt_answers["s_to_io"] == f" {subject}"
            assert names_in(item.corrupt["list_order"]) == [found[1], found[0], subject]
        else:
            (s1, s2), io = found[3:], item.answer.strip()
            assert item.distractors == (f" {s1}", f" {s2}")
            assert names_in(item.corrupt["s1_to_io"]) == [*found[:3], io, s2]
            assert item.corrupt_answers["s1_to_io"] == f" {s1}"
            assert names_in(item.corrupt["s2_to_io"]) == [*found[:3], s1, io]
            assert item.corrupt_answers["s2_to_io"] == f" {s2}"
            assert names_in(item.corrupt["subject_order"]) == [*found[:3], s2, s1]
            assert names_in(item.corrupt["list_order"])[3:] == [s1, s2]


@pytest.mark.parametrize("name", COUNT)
def test_answers_are_balanced_over_list_positions_and_subject_orders(name: str) -> None:
    task = TASKS[name]
    block = len(task.cases)
    items = task.items("test", 10 * block, seed=0)
    for begin in range(0, len(items), block):
        seen = Counter()
        for item in items[begin : begin + block]:
            found = names_in(item.prompt)
            listed, acting = item.names, found[len(item.names) :]
            seen[tuple(listed.index(n) for n in (item.answer.strip(), *acting))] += 1
        assert len(seen) == block
        assert set(seen.values()) == {1}
    # Even and odd rows are the halves of split-half estimates: they must be balanced too.
    half = drawn(name, "test")[1::2]
    places = Counter(item.names.index(item.answer.strip()) for item in half)
    assert max(places.values()) < 1.7 * min(places.values())


def test_no_name_dominates_the_answers() -> None:
    answers = Counter(item.answer for split in SPLITS for item in drawn("ioi3", split))
    assert len(answers) == len(NAMES)
    assert max(answers.values()) < 0.07 * answers.total()


@pytest.mark.parametrize("name", COUNT)
def test_splits_hold_out_name_pairs_and_templates(name: str) -> None:
    used: dict[str, dict[str, set]] = {}
    for split in SPLITS:
        items = drawn(name, split)
        pairs = [{frozenset(p) for p in combinations(item.names, 2)} for item in items]
        pairs += [
            {frozenset(p) for p in combinations(set(names_in(item.corrupt["names"])), 2)}
            for item in items
        ]
        kinds = [{PAIR_SPLIT[p] for p in group} for group in pairs]
        if split == "train":
            assert all(group == {"train"} for group in kinds)
        elif split.startswith("validation"):
            assert all("validation" in group and "test" not in group for group in kinds)
        else:
            assert all("test" in group for group in kinds)
        halves = [item.template.split(".") for item in items]
        used[split] = {
            "openings": {opening for opening, _ in halves},
            "continuations": {continuation for _, continuation in halves},
            "prompts": {item.prompt for item in items},
        }
    for one, two in combinations(SPLITS, 2):
        assert not used[one]["prompts"] & used[two]["prompts"]
        if one.endswith("_templates") or two.endswith("_templates"):
            assert not used[one]["openings"] & used[two]["openings"]
            assert not used[one]["continuations"] & used[two]["continuations"]
        else:
            assert used[one]["openings"] == used[two]["openings"]


def test_there_are_enough_templates_and_words() -> None:
    openings = [o for group in OPENINGS.values() for o in group]
    continuations = [c for group in CONTINUATIONS.values() for c in group]
    assert len({o.text for o in openings}) == len(openings) >= 20
    assert len({c.text for c in continuations}) == len(continuations) >= 15
    assert len({t.id for t in openings + continuations}) == len(openings) + len(continuations)
    for template in openings:
        assert template.text.count("{names}") == 1
        assert not template.text.startswith("{")
        assert template.text[-1] in ",."
    for template in continuations:
        assert template.text.count("{subjects}") == 1
    words = [*NAMES, *PLACES, *OBJECTS]
    assert len(set(words)) == len(words)
    assert len(NAMES) == 30
    ordinary = " ".join(t.text for t in openings + continuations).split()
    assert not set(ordinary) & set(NAMES)


def test_shares_of_the_pairs() -> None:
    shares = Counter(PAIR_SPLIT.values())
    assert len(PAIR_SPLIT) == 435
    assert shares["test"] / 435 == pytest.approx(0.15, abs=0.01)
    assert shares["validation"] / 435 == pytest.approx(0.10, abs=0.01)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 3), split=st.sampled_from(SPLITS))
def test_drawn_names_belong_to_their_split(seed: int, count: int, split: str) -> None:
    rng = random.Random(seed)
    names = draw_names(rng, count, split)
    others = draw_names(rng, count, split, unlike=names)
    assert len(set(names + others)) == 2 * count
    for group in (names, others):
        assert names_split(group) == split.removesuffix("_templates")


def test_same_arguments_same_items_and_a_smaller_n_is_a_prefix() -> None:
    task = get_task("ioi3")
    items = task.items("test", 60, seed=5)
    assert items == task.items("test", 60, seed=5)
    assert items[:20] == task.items("test", 20, seed=5)
    assert items != task.items("test", 60, seed=6)


def test_an_item_is_the_same_after_json() -> None:
    item = get_task("ioi3").items("test", 1)[0]
    assert Item.model_validate_json(item.model_dump_json()) == item


def test_families_are_shared_between_the_tasks() -> None:
    old, new = get_task("ioi2"), get_task("ioi3")
    assert old.families.keys() == new.families.keys()
    assert new.counterfactuals == ("s1_to_io", "s2_to_io", "names")
    assert "list_order" in old.invariance


def test_errors_say_what_and_how_to_fix_it() -> None:
    with pytest.raises(
        CircuitlapseError, match=r"no such task \(got 'ioi4'\). Use one of bought_more, .*ioi3"
    ):
        get_task("ioi4")
    with pytest.raises(CircuitlapseError, match=r"no such split \(got 'dev'\). Use one of train"):
        get_task("ioi2").items("dev", 3)
    with pytest.raises(CircuitlapseError, match=r"at least 1 \(got 0\)"):
        get_task("ioi2").items("test", 0)


def test_a_split_with_too_few_items_is_an_error_with_their_number() -> None:
    task = TASKS["ioi2"]
    same = task.items("test", 2)
    scarce = replace(task, draw=lambda rng, split, case, pools: same[rng.randrange(2)])
    with pytest.raises(CircuitlapseError, match=r"that many items \(got 3\). Ask for at most 2"):
        scarce.items("test", 3)


@pytest.mark.parametrize(
    "prompt",
    [
        "Then, Mary and John went home. Tom gave a ring to",
        "Then, Mary and John went home. Then people gave a ring to",
        "Then, Mary, John and Tom went home. John gave a ring to",
        "Then, Mary and John went home. John and Mary gave a ring to",
        "Then, Mary and John went home. John and John gave a ring to",
        "Then Mary went home to",
    ],
)
def test_a_prompt_without_exactly_one_answer_is_an_error(prompt: str) -> None:
    with pytest.raises(CircuitlapseError, match=r"does not determine one answer .*List every"):
        recipient(prompt, NAMES)


def test_validation_finds_every_fault_of_an_item() -> None:
    task = get_task("ioi2")
    item = task.items("test", 1)[0]

    def rejected(match: str, **changes: object) -> None:
        broken = item.model_copy(update=changes)
        with pytest.raises(CircuitlapseError, match=match):
            validate([broken], task.counterfactuals, task.invariance)

    validate([item], task.counterfactuals, task.invariance)
    rejected("the answer is stated as", answer=item.distractors[0])
    rejected(f"the distractors must be {item.distractors[0]!r}", distractors=(item.answer,))
    rejected("span 'IO' must cover", spans={"IO": (0, 3)})
    rejected("has the counterfactuals", corrupt={})
    rejected("'s_to_io' changes nothing", corrupt={**item.corrupt, "s_to_io": item.prompt})
    swapped = {**item.corrupt, "s_to_io": item.corrupt["list_order"]}
    answers = {**item.corrupt_answers, "s_to_io": item.answer}
    rejected("must change the answer", corrupt=swapped, corrupt_answers=answers)
    swapped = {**item.corrupt, "list_order": item.corrupt["s_to_io"]}
    answers = {**item.corrupt_answers, "list_order": item.corrupt_answers["s_to_io"]}
    rejected("must keep the answer", corrupt=swapped, corrupt_answers=answers)
    rejected(
        "answer under 'names' is ' Tom", corrupt_answers={**item.corrupt_answers, "names": " Tom?"}
    )

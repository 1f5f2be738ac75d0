"""Built-in tasks, compared with checkers that read only the finished text."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.records.items import Item
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import PAIR_SPLIT, SPLITS
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.words import NAMES, NUMBER_WORDS, POOLS, pools_for

EACH = 125  # items of every task and split: more than 10,000 in all


@cache
def drawn(name: str, split: str) -> list[Item]:
    return get_task(name).items(split, EACH, seed=11)


def names_of(text: str) -> list[str]:
    cleaned = "".join(letter if letter.isalnum() else " " for letter in text)
    return [word for word in cleaned.split() if word in NAMES]


def recipient(prompt: str) -> str:
    """The one who is named an odd number of times."""
    (left,) = [name for name, times in Counter(names_of(prompt)).items() if times % 2]
    return left


def keeper(prompt: str) -> str:
    """The one who comes in and is not named again before the question."""
    came, *left = re.split(r"(?:out of|left) the", prompt)
    inside = names_of(re.split(r"\. (?=[^.]*$)", came)[0])
    gone = set(names_of(prompt)[len(inside) :])
    (stays,) = set(inside) - gone
    assert left
    return stays


def holder(prompt: str) -> str:
    """The one who receives and gives nothing away; or whoever receives last, told forwards."""
    gifts = re.findall(r"([A-Z]\w+) (?:had )?\w+ the \w+ to ([A-Z]\w+)", prompt)
    if " had passed " in prompt or re.search(r" had (given|thrown|sent|handed) ", prompt):
        gifts.reverse()
    (giver, first), (second, last) = gifts
    assert first == second != giver
    return last


def richer(prompt: str) -> str:
    said = dict(re.findall(r"(?=\b([A-Z]\w+) \w+ (\d+) )", prompt))
    a, b = [name for name in said if name in NAMES]
    return a if int(said[a]) > int(said[b]) else b


CHECKERS: dict[str, Callable[[str], str]] = {
    "ioi": recipient,
    "leave": keeper,
    "pass": holder,
    "bought": richer,
}


def right_answers(name: str, prompt: str) -> set[str]:
    if name == "greater_than":
        year = re.findall(r"\d{4}", prompt)[0]
        assert prompt.endswith(f" {year[:2]}")
        return {f"{later % 100:02d}" for later in range(int(year) + 1, int(year[:2]) * 100 + 100)}
    if name == "induction":
        words = prompt.split()
        return {f" {words[words.index(words[-1]) + 1]}"}
    return {f" {CHECKERS[re.split('[0-9_]', name)[0]](prompt)}"}


@pytest.mark.parametrize("name", TASKS)
def test_every_item_has_the_answer_of_an_independent_checker(name: str) -> None:
    assert len(TASKS) * len(SPLITS) * EACH >= 10_000
    task = get_task(name)
    for split in SPLITS:
        items = drawn(name, split)
        assert len({item.prompt for item in items}) == EACH
        for item in items:
            right = right_answers(name, item.prompt)
            if name == "greater_than":
                assert right > {item.answer, *item.also} or right == {item.answer, *item.also}
            else:
                assert right == {item.answer}
                assert item.also == ()
            assert not right & set(item.distractors)
            assert item.distractors
            assert set(item.spans) == set(task.positions) - {"END"}
            for start, end in item.spans.values():
                assert item.prompt[start - 1] == " " or name == "greater_than"
                assert re.fullmatch(r"[A-Za-z]+|\d+", item.prompt[start:end])
            if item.names:
                assert {f" {n}" for n in item.names} == {item.answer, *item.distractors}
                assert set(names_of(item.prompt)) == set(item.names)
            assert "{" not in item.prompt
            assert "  " not in item.prompt
            words = item.prompt.split()
            for key, prompt in item.corrupt.items():
                after = right_answers(name, prompt)
                assert item.corrupt_answers[key] in after
                if key in task.invariance:
                    assert after == right
                else:
                    assert item.corrupt_answers[key] not in right
                assert prompt != item.prompt
                assert len(prompt.split()) == len(words)


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_item_no_name_pair_and_no_wording(name: str) -> None:
    prompts = {split: {item.prompt for item in drawn(name, split)} for split in SPLITS}
    wordings = {split: set() for split in SPLITS}
    for split in SPLITS:
        kind = split.removesuffix("_templates")
        for item in drawn(name, split):
            wordings[split] |= set(item.template.split("."))
            pairs = {PAIR_SPLIT[frozenset(pair)] for pair in combinations(item.names, 2)}
            if item.names:
                assert kind in pairs
                assert pairs <= {"train": {"train"}, "validation": {"train", "validation"}}.get(
                    kind, {"train", "validation", "test"}
                )
    for one, two in combinations(SPLITS, 2):
        assert not prompts[one] & prompts[two]
        held_out = one.endswith("_templates") or two.endswith("_templates")
        assert not held_out or not wordings[one] & wordings[two]


@settings(max_examples=25)
@given(name=st.sampled_from(list(TASKS)), seeds=st.tuples(st.integers(0, 10**6), st.integers()))
def test_no_item_is_in_two_splits_whatever_the_seeds(name: str, seeds: tuple[int, int]) -> None:
    task = get_task(name)
    one = {item.prompt for item in task.items("train", 20, seeds[0])}
    for split in ("validation", "test"):
        assert not one & {item.prompt for item in task.items(split, 20, seeds[1])}


LISTED = {
    name: {2: 2, 6: 3}[len(task.cases)] for name, task in TASKS.items() if len(task.cases) > 1
}


@pytest.mark.parametrize("name", LISTED)
def test_the_answer_is_equally_often_at_every_list_position(name: str) -> None:
    block, count = len(TASKS[name].cases), LISTED[name]
    items = TASKS[name].items("test", 5 * block)
    for begin in range(0, len(items), block):
        places = Counter()
        for item in items[begin : begin + block]:
            listed = item.names[:count]
            assert " ".join(listed) in " ".join(names_of(item.prompt))
            # Who stays at home is in no list: there, one of those who act stands for the answer.
            who = item.distractors[0] if name == "ioi3_home" else item.answer
            places[listed.index(who.strip())] += 1
        assert set(places.values()) == {block // count}
        assert len(places) == count


def test_every_word_is_in_one_pool_and_no_wording_is_in_two_splits() -> None:
    for slot, words in POOLS.items():
        assert len(set(words)) == len(words), slot
    assert not set(NAMES) & {word.title() for word in POOLS["word"]}
    assert len(NUMBER_WORDS) == len(POOLS["number"])


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedTokenizerBase:
    directory = os.environ.get("CIRCUITLAPSE_GPT2_TOKENIZER")
    if not directory:
        pytest.skip("CIRCUITLAPSE_GPT2_TOKENIZER does not name a directory with GPT-2's tokenizer")
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_unchanged_with_the_tokenizer_of_gpt2(name: str, gpt2) -> None:
    task = get_task(name)
    assert pools_for(gpt2) == POOLS
    for split in ("train", "test_templates"):
        items = task.items(split, 24, tokenizer=gpt2)
        assert items == task.items(split, 24)
        for counterfactual in (*task.counterfactuals, *task.invariance):
            pairs = tokenize(items, gpt2, counterfactual)
            assert tuple(pairs.positions) == task.positions
            assert not pairs.is_sequence
            for i, item in enumerate(items):
                ids = pairs.clean[i, : pairs.lengths[i]]
                assert gpt2.decode(ids) == item.prompt
                right = [gpt2.decode([t]) for t in pairs.right()[i].tolist() if t >= 0]
                assert right == [item.answer, *item.also]
                for label, (start, end) in item.spans.items():
                    token = gpt2.decode([int(ids[pairs.positions[label][i]])])
                    assert token.strip() == item.prompt[start:end]


def without(tokenizer: PreTrainedTokenizerFast, words: set[str]) -> PreTrainedTokenizerFast:
    """The organism's tokenizer, which does not know these words."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    kept = [piece for piece in vocabulary if piece.strip("\u0120") not in words]
    state["model"]["vocab"] = {piece: i for i, piece in enumerate(kept)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="<|unknown|>",
        eos_token="<|endoftext|>",
    )


def test_words_are_single_tokens_of_the_tokenizer() -> None:
    organism = build_tokenizer()
    for name in ("ioi2", "ioi3"):
        task = get_task(name)
        assert task.items("test", 60, tokenizer=organism) == task.items("test", 60)
    fewer = without(organism, {"Mary", "John", "ring", "store"})
    items = get_task("ioi3").items("test", 60, tokenizer=fewer)
    text = " ".join(prompt for item in items for prompt in (item.prompt, *item.corrupt.values()))
    assert not {"Mary", "John", "ring", "store"} & set(re.findall(r"\w+", text))
    assert len(tokenize(items, fewer, "names")) == 60
    # Random words are drawn from those that the organism has.
    assert (
        len(
            tokenize(
                get_task("induction").items("test", 9, tokenizer=organism), organism, "next_token"
            )
        )
        == 9
    )


def test_a_tokenizer_without_the_words_of_a_task_is_an_error() -> None:
    organism = build_tokenizer()
    with pytest.raises(
        CircuitlapseError, match=r"needs 2 words for 'number' .*got '0: none'.*2, 3"
    ):
        get_task("bought_more").items("test", 3, tokenizer=organism)
    with pytest.raises(CircuitlapseError, match=r"'year' that are split after the century"):
        get_task("greater_than").items("test", 3, tokenizer=organism)
    with pytest.raises(
        CircuitlapseError, match=r"does not know words of its texts \(got 'alone, but'"
    ):
        get_task("ioi3_home").items("test", 50, tokenizer=organism)
    few = without(organism, set(NAMES[5:]))
    with pytest.raises(
        CircuitlapseError,
        match=r"'ioi3' cannot .*needs 6 words for 'name' .*got '5: Adam, .*lacks Carl, .* 17 more",
    ):
        get_task("ioi3").items("test", 3, tokenizer=few)
    # Enough names, but no two of them make a held-out pair.
    pairs = [sorted(pair) for pair, split in PAIR_SPLIT.items() if split == "test"]
    held_out = {name for pair in pairs for name in pair}
    apart = [name for name in NAMES if name in held_out]
    kept: list[str] = []
    for name in apart:
        if all(PAIR_SPLIT[frozenset((name, other))] != "test" for other in kept):
            kept.append(name)
    some = without(organism, set(NAMES) - set(kept[:6]))
    with pytest.raises(CircuitlapseError, match="too few names for the split 'test' .*draw 3 from"):
        get_task("ioi3").items("test", 3, tokenizer=some)

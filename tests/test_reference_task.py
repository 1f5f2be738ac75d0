"""The reference task: the same prompts with the answers of the plainest rule."""

import re
from functools import partial

import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.records.items import Item
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.custom_task import CustomTask
from circuitlapse.tasks.reference_task import why_no_reference
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.words import NAMES
from circuitlapse.training.examples import encode


def expected(task: str, prompt: str) -> str:
    """The rule's answer, read from the text alone."""
    if task == "greater_than":
        return next(word for word in prompt.split() if word.isdigit())[2:]
    words = re.findall(r"\w+", prompt)
    if task == "induction":
        return f" {words[1]}"
    return f" {next(word for word in words if word in NAMES)}"


@pytest.mark.parametrize("name", TASKS)
def test_a_battery_task_keeps_its_prompts_and_candidates(name: str) -> None:
    task = TASKS[name]
    items = task.items("train", 60, seed=3)
    found = task.reference_items(items)
    for item, ruled in zip(items, found, strict=True):
        assert ruled.prompt == item.prompt
        assert ruled.corrupt == item.corrupt
        assert ruled.answer == expected(name, item.prompt)
        assert ruled.also == ()
        assert len(ruled.distractors) == len(set(ruled.distractors))
        candidates = {item.answer, *item.also, *item.distractors}
        assert {ruled.answer, *ruled.distractors} == candidates
        assert ruled.corrupt_answers == {
            key: expected(name, prompt) for key, prompt in item.corrupt.items()
        }
        assert Item.model_validate_json(ruled.model_dump_json()) == ruled
    rights = sum(
        ruled.answer in (item.answer, *item.also) for item, ruled in zip(items, found, strict=True)
    )
    assert rights <= 36, "the rule must not solve the task"


def test_reference_items_can_be_tokenised_and_trained_on() -> None:
    task, tokenizer = TASKS["ioi3"], build_tokenizer()
    items = task.reference_items(task.items("train", 20))
    for counterfactual in (*task.counterfactuals, *task.invariance):
        pairs = tokenize(items, tokenizer, counterfactual)
        assert tokenizer.decode([int(pairs.answers[0])]) == items[0].answer
    assert len(encode(items, tokenizer)) == 20


custom = partial(
    Item, names=(), template="", split="train", spans={}, corrupt_answers={"swapped": " John"}
)
MARY = custom(
    prompt="Mary and John went out. John gave a ring to",
    answer=" Mary",
    distractors=(" John",),
    corrupt={"swapped": "Mary and John went out. Mary gave a ring to"},
)
TOM = custom(
    prompt="Tom and John went out. Tom gave a ring to",
    answer=" John",
    distractors=(" Tom",),
    corrupt={"swapped": "Lisa and John went out. Lisa gave a ring to"},
)


def own_task(items: list[Item]) -> CustomTask:
    return CustomTask("own", "", {"swapped": ("swapped",)}, (), ("END",), {"train": items})


def test_a_custom_task_has_a_reference_where_its_prompts_name_candidates() -> None:
    first, second = own_task([MARY, TOM]).reference_items([MARY, TOM])
    assert (first.answer, first.distractors) == (" Mary", (" John",))
    assert first.corrupt_answers == {"swapped": " Mary"}
    assert (second.answer, second.distractors) == (" Tom", (" John",))
    assert second.corrupt_answers == {}, "Lisa is no known candidate"


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([MARY.model_copy(update={"distractors": ()})], "the prompts have no wrong candidates"),
        (
            [MARY, MARY.model_copy(update={"prompt": "The capital of France is"})],
            "1 of 2 prompts name none of their candidates, such as 'The capital of France is'",
        ),
        ([MARY], "it would be the task itself, because its rule is right on 1 of 1 prompts"),
    ],
)
def test_a_task_without_a_reference_says_why(items: list[Item], reason: str) -> None:
    task = own_task(items)
    assert (why_no_reference(items, task.reference) or "").startswith(reason)
    with pytest.raises(CircuitlapseError) as caught:
        task.reference_items(items)
    assert reason in str(caught.value)

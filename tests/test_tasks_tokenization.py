import os

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuitlapse.errors import CircuitlapseError
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.prompts.metrics import logit_difference
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import SPLITS
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.words import NAMES, OBJECTS, PLACES


@pytest.fixture(scope="module", params=["organism", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "organism":
        return build_tokenizer()
    directory = os.environ.get("CIRCUITLAPSE_GPT2_TOKENIZER")
    if not directory:
        pytest.skip("CIRCUITLAPSE_GPT2_TOKENIZER does not name a directory with GPT-2's tokenizer")
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


@pytest.mark.parametrize("name", ["ioi2", "ioi3"])
def test_positions_point_at_their_words(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    task = get_task(name)
    items = [item for split in SPLITS for item in task.items(split, 60)]
    for counterfactual in (*task.counterfactuals, *task.invariance):
        pairs = tokenize(items, tokenizer, counterfactual)
        assert tuple(pairs.positions) == task.positions
        assert len(pairs) == len(items)
        for i, item in enumerate(items):
            length = int(pairs.lengths[i])
            assert tokenizer.decode(pairs.clean[i, :length]) == item.prompt
            assert tokenizer.decode(pairs.corrupt[i, :length]) == item.corrupt[counterfactual]
            assert tokenizer.decode([int(pairs.answers[i])]) == item.answer
            wrong = [tokenizer.decode([int(token)]) for token in pairs.distractors[i]]
            assert tuple(wrong) == item.distractors
            at = {key: int(where[i]) for key, where in pairs.positions.items()}
            said = {key: tokenizer.decode([int(pairs.clean[i, p])]) for key, p in at.items()}
            assert at["END"] == length - 1
            assert said["IO"] == item.answer
            subjects = ("S",) if name == "ioi2" else ("S1", "S2")
            for label, distractor in zip(subjects, item.distractors, strict=True):
                assert said[label] == said[f"{label}_again"] == distractor
                assert at[label] < at[f"{label}_again"]
                assert at["IO"] < at[f"{label}_again"]
            if name == "ioi3":
                assert at["S1_again"] < at["S2_again"]


def test_names_and_objects_are_single_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    for word in (*NAMES, *PLACES, *OBJECTS):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1


def test_only_the_changed_names_differ() -> None:
    tokenizer = build_tokenizer()
    items = get_task("ioi3").items("test", 64)
    pairs = tokenize(items, tokenizer, "s2_to_io")
    differs = pairs.clean != pairs.corrupt
    assert differs.sum(dim=1).tolist() == [1] * 64
    assert torch.equal(pairs.first_difference(), pairs.positions["S2_again"])
    order = tokenize(items, tokenizer, "subject_order")
    assert (order.clean != order.corrupt).sum(dim=1).tolist() == [2] * 64


def test_padding_is_on_the_right_for_any_padding_side() -> None:
    tokenizer = build_tokenizer()
    items = get_task("ioi2").items("test", 16)
    expected = tokenize(items, tokenizer, "names")
    tokenizer.padding_side = "left"
    found = tokenize(items, tokenizer, "names")
    assert torch.equal(found.clean, expected.clean)
    assert torch.equal(found.lengths, expected.lengths)


def test_a_beginning_of_text_token_shifts_the_positions() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    items = get_task("ioi2").items("test", 8)
    plain = tokenize(items, tokenizer, "names")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    shifted = tokenize(items, tokenizer, "names")
    assert torch.equal(shifted.clean[:, 1:], plain.clean)
    for label, where in plain.positions.items():
        assert torch.equal(shifted.positions[label], where + 1)


def test_errors_name_the_item() -> None:
    tokenizer = build_tokenizer()
    item = get_task("ioi2").items("test", 1)[0]
    with pytest.raises(CircuitlapseError, match="no items"):
        tokenize([], tokenizer, "names")
    with pytest.raises(
        CircuitlapseError, match=r"no such counterfactual \(got 's1_to_io'\).*s_to_io"
    ):
        tokenize([item], tokenizer, "s1_to_io")
    longer = item.model_copy(update={"corrupt": {"names": item.prompt + " to"}})
    with pytest.raises(CircuitlapseError, match=r"changes the number of tokens .* and .*one token"):
        tokenize([longer], tokenizer, "names")
    odd = item.model_copy(update={"prompt": "Zebras " + item.prompt})
    with pytest.raises(CircuitlapseError, match=r"does not know \(got 'Zebras .*own vocabulary"):
        tokenize([odd], tokenizer, "names")
    none = item.model_copy(update={"answer": ""})
    with pytest.raises(CircuitlapseError, match="tokens of '' cannot be told from those of its"):
        tokenize([none], tokenizer, "names")
    twice = item.model_copy(update={"distractors": (item.answer,)})
    with pytest.raises(CircuitlapseError, match=f"{item.answer!r} are the same tokens"):
        tokenize([twice], tokenizer, "names")
    many = item.model_copy(update={"also": (" Mary Tom",)})
    with pytest.raises(CircuitlapseError, match="' Mary Tom' is not one token, as each of several"):
        tokenize([many], tokenizer, "names")
    wide = item.model_copy(update={"spans": {"IO": (0, len(item.prompt))}})
    with pytest.raises(CircuitlapseError, match=r"at IO is \d+ tokens, not one"):
        tokenize([wide], tokenizer, "names")
    mixed = [item, get_task("ioi3").items("test", 1)[0]]
    with pytest.raises(CircuitlapseError, match="one task at a time"):
        tokenize(mixed, tokenizer, "names")


def test_names_of_several_tokens_are_errors() -> None:
    characters = Tokenizer(models.WordLevel({chr(i): i for i in range(32, 127)}, unk_token="~"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=characters)
    with pytest.raises(CircuitlapseError, match="changes the number|tokens, not one"):
        tokenize(get_task("ioi2").items("test", 4), tokenizer, "names")


def test_logit_difference_by_hand() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0, 4.0], [0.0, -1.0, 3.0, 1.0]])
    answers, distractors = torch.tensor([1, 2]), torch.tensor([[2, 3], [0, 1]])
    assert logit_difference(logits, answers, distractors).tolist() == [2.0, 3.5]

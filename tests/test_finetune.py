import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks import get_task
from circuitlapse.training.finetune import IGNORED, encode, finetune


def _run(base, steps=6, seed=0, learning_rate=1e-2, n=48):
    saved = {}

    def save(step, model, tokenizer):
        saved[step] = {name: value.clone() for name, value in model.state_dict().items()}

    finetune(
        base, get_task("ioi3").items("train", n), save, steps=steps, save_every=4,
        learning_rate=learning_rate, batch_size=8, seed=seed, device="cpu",
    )  # fmt: skip
    return saved


def test_the_answer_is_the_only_label(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    items = get_task("ioi3").items("train", 5)
    for item, example in zip(items, encode(items, tokenizer), strict=True):
        kept = [label for label in example["labels"] if label != IGNORED]
        assert tokenizer.decode(kept) == item.answer
        assert tokenizer.decode(example["input_ids"]) == item.prompt + item.answer
        assert tokenizer.eos_token_id not in example["input_ids"]


def test_an_answer_that_melts_into_its_prompt_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    item = get_task("ioi3").items("train", 1)[0].model_copy(update={"answer": ""})
    with pytest.raises(CircuitlapseError, match="cannot be separated from the prompt's"):
        encode([item], tokenizer)


def test_checkpoints_come_at_their_steps_and_the_first_is_the_base(tiny_model):
    saved = _run(tiny_model)
    assert list(saved) == [0, 4, 6]
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert all(torch.equal(saved[0][name], value) for name, value in base.items())
    assert not torch.equal(saved[4]["transformer.wte.weight"], base["transformer.wte.weight"])


def test_the_vocabulary_keeps_its_size_without_a_padding_token(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    saved = _run(tmp_path, steps=1)
    assert len(saved[1]["transformer.wte.weight"]) == len(tokenizer)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_model):
    first, again, other = (_run(tiny_model, steps=4, seed=seed)[4] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_it_learns_names_and_never_to_stop(tiny_model):
    """One-token answers must not teach the end-of-text token, the trap of TRL's own completions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    saved = _run(tiny_model, steps=40, n=320)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    items = get_task("ioi3").items("validation", 32)
    names = {tokenizer.convert_tokens_to_ids("Ġ" + n) for item in items for n in item.names}
    answers = [tokenizer(item.answer)["input_ids"][0] for item in items]
    stops = []
    for step in (0, 40):
        model.load_state_dict(saved[step])
        with torch.no_grad():
            ends = [
                model(torch.tensor([tokenizer(item.prompt + item.answer)["input_ids"]])).logits[0]
                for item in items
            ]
        stops.append(
            torch.stack([end[-1].softmax(0)[tokenizer.eos_token_id] for end in ends]).mean()
        )
        predicted = [int(end[-2].argmax()) for end in ends]
    assert sum(token in names for token in predicted) > 0.9 * len(answers)
    assert stops[1] < 0.05


def test_nothing_to_train_on_is_refused(tiny_model):
    with pytest.raises(CircuitlapseError, match="nothing to fine-tune on"):
        finetune(tiny_model, [], lambda *a: None, steps=1, save_every=1, learning_rate=1.0,
                 batch_size=1, seed=0)  # fmt: skip

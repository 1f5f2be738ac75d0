"""One fine-tune: what the loss is on, what is saved, and what is learnt."""

import gc
import math
from typing import Any

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.training_args import OptimizerNames

from circuitlapse.config.finetune import Finetune, Preset
from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.examples import IGNORED, REPEATS, encode
from circuitlapse.training.finetune import finetune


def recipe(**settings) -> Finetune:
    return Finetune.model_validate(
        {"steps": 6, "save_every": 4, "learning_rate": 1e-2, "batch_size": 8, **settings}
    )


def tuned(base, seed=0, n=48, **settings):
    """Fine-tune on a few prompts; return every checkpoint's weights."""
    saved = {}

    def save(step, model, tokenizer):
        saved[step] = {name: value.clone() for name, value in model.state_dict().items()}

    items = get_task("ioi3").items("train", n)
    finetune(base, items, save, recipe(**settings), seed=seed, device="cpu")
    return saved


@pytest.fixture(scope="module", autouse=True)
def quick_collections():
    """The trainer collects garbage at its end; nothing that is there already need be visited."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def plain(tiny_model):
    return tuned(tiny_model)


def close(one, other):
    """Equal up to rounding; keys' bias has no effect, and AdamW moves it by rounding alone."""
    for name, value in one.items():
        kept = torch.ones_like(value, dtype=torch.bool)
        if name.endswith("c_attn.bias"):
            kept[len(value) // 3 : 2 * len(value) // 3] = False
        if not torch.allclose(value[kept], other[name][kept], atol=2e-4):
            return False
    return True


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_each_preset_has_its_labels(tokenizer):
    item = get_task("ioi3").items("train", 1)[0]
    prompt = tokenizer(item.prompt)["input_ids"]
    (answer,) = tokenizer(item.answer)["input_ids"]
    blank = [IGNORED] * len(prompt)
    expected: dict[Preset, tuple[list[int], list[int]]] = {
        "answer-only": ([*prompt, answer], [*blank, answer]),
        "full-text": ([*prompt, answer], [*prompt, answer]),
        "repeat-completion": ([*prompt, *[answer] * 20], [*blank, *[answer] * 20]),
    }
    for preset, (ids, labels) in expected.items():
        assert encode([item], tokenizer, preset) == [{"input_ids": ids, "labels": labels}]
        assert tokenizer.eos_token_id not in ids
    assert REPEATS == 20


def test_an_answer_that_melts_into_its_prompt_is_refused(tokenizer):
    item = get_task("ioi3").items("train", 1)[0].model_copy(update={"answer": ""})
    with pytest.raises(CircuitlapseError, match="cannot be separated from the prompt's"):
        encode([item], tokenizer)


def test_repeats_beyond_the_model_are_refused_and_not_cut_off(tiny_model, tmp_path):
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.transformer.wpe.weight = nn.Parameter(model.transformer.wpe.weight[:32].clone())
    model.config.n_positions = 32
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(CircuitlapseError, match=r"repeat-completion is longer .* for 32 positions"):
        tuned(tmp_path, preset="repeat-completion")


def test_checkpoints_come_at_their_steps_and_the_first_is_the_base(tiny_model, plain):
    assert list(plain) == [0, 4, 6]
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert same(plain[0], base)
    assert not torch.equal(plain[4]["transformer.wte.weight"], base["transformer.wte.weight"])


@pytest.mark.parametrize(
    ("dtype", "settings"), [("float16", {}), ("bfloat16", {}), ("bfloat16", {"method": "lora"})]
)
def test_a_base_in_half_precision_is_trained_in_single(tiny_model, tmp_path, dtype, settings):
    """As its own copy in single precision is: no update is rounded away, no row becomes NaN."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    for name in ("half", "single"):
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / name)
        model = model.float()  # the same numbers
    found, expected = (
        tuned(tmp_path / name, learning_rate=1e-5, **settings) for name in ("half", "single")
    )
    for step in expected:
        assert {value.dtype for value in found[step].values()} == {torch.float32}
        assert same(found[step], expected[step])
    assert not same(found[6], found[0])


def test_the_default_recipe_is_a_plain_loop(tiny_model, tokenizer):
    """A twin without the trainer: AdamW, a constant rate, clipping, and the seed's order."""
    items = get_task("ioi3").items("train", 48)
    examples = encode(items, tokenizer)
    sampler = SeedableRandomSampler(items, data_seed=5)
    sampler.set_epoch(0)
    order = list(sampler)
    model = AutoModelForCausalLM.from_pretrained(tiny_model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(4):
        batch = [examples[index] for index in order[8 * step : 8 * step + 8]]
        loss = torch.tensor(0.0)
        for example in batch:
            logits = model(torch.tensor([example["input_ids"]])).logits[0]
            labels = torch.tensor(example["labels"])[1:]
            loss = loss + nn.functional.cross_entropy(
                logits[:-1], labels, ignore_index=IGNORED, reduction="sum"
            )
        (loss / len(batch)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert close(tuned(tiny_model, seed=5, steps=4)[4], model.state_dict())


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny_model, plain):
    assert same(plain[6], tuned(tiny_model)[6])
    assert not same(plain[6], tuned(tiny_model, seed=1)[6])


def test_accumulated_parts_of_a_step_are_the_whole_step(tiny_model, plain):
    assert close(plain[6], tuned(tiny_model, gradient_accumulation=4)[6])


@pytest.mark.parametrize("targets", [[], ["c_proj"]])
def test_adapters_are_merged_and_only_their_modules_move(tiny_model, targets):
    saved = tuned(tiny_model, method="lora", lora={"rank": 2, "targets": targets})
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    assert same(saved[0], base)
    moved = {name for name in base if not torch.equal(saved[6][name], base[name])}
    kinds = ("attn.c_proj", "mlp.c_proj") if targets else ("attn.c_attn",)
    assert moved == {f"transformer.h.{n}.{kind}.weight" for n in (0, 1) for kind in kinds}
    for name in moved:
        assert torch.linalg.matrix_rank(saved[6][name] - base[name], atol=1e-5) <= 2


def test_adapters_on_modules_that_are_not_there_are_refused(tiny_model):
    with pytest.raises(CircuitlapseError, match=r"q_proj.*Correct .*finetune\.lora"):
        tuned(tiny_model, method="lora", lora={"targets": ["q_proj"]})


def test_adapters_on_one_of_two_tied_tables_are_refused(tiny_model):
    """Merging would move the other table too, so that what is saved is not what was trained."""
    with pytest.raises(CircuitlapseError, match=r"wte\.weight = lm_head\.weight.*lora\.targets"):
        tuned(tiny_model, method="lora", lora={"targets": ["wte"]})


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adafactor"},
        {"optimizer": "sgd", "trainer": {"optim_args": "momentum=0.9"}},
        {"schedule": "cosine", "trainer": {"warmup_steps": 2}},
        {"trainer": {"bf16": True}},
    ],
)
def test_what_the_trainer_can_do_changes_what_is_learnt(tiny_model, plain, settings):
    other = tuned(tiny_model, **settings)[6]
    assert not same(plain[6], other)
    assert all(torch.isfinite(value).all() for value in other.values())


def test_the_rate_follows_the_schedule_to_zero(tiny_model):
    rates = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            rates.append(kwargs["lr_scheduler"].get_last_lr()[0])

    items = get_task("ioi3").items("train", 48)
    finetune(
        tiny_model,
        items,
        lambda *a: None,
        recipe(schedule="linear"),
        seed=0,
        device="cpu",
        callbacks=[Watch()],
    )
    assert rates == pytest.approx([1e-2 * (6 - step) / 6 for step in range(1, 7)])


@pytest.mark.parametrize("padding", [None, "<|pad|>"])
def test_the_vocabulary_never_grows(tiny_model, tmp_path, padding):
    """Neither without a padding token nor with one that the model does not have."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    known = len(tokenizer)
    tokenizer.pad_token = None
    if padding:
        tokenizer.add_special_tokens({"pad_token": padding})
        assert tokenizer.pad_token_id == known
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    assert len(tuned(tmp_path, steps=1, save_every=1)[1]["transformer.wte.weight"]) == known


def test_a_tokenizer_without_any_end_is_refused(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(CircuitlapseError, match=r"neither a padding nor .* Set tokenizer\.pad"):
        tuned(tmp_path)


def test_it_learns_names_and_never_to_stop(tiny_model, tokenizer):
    """One-token answers must not teach the end-of-text token, the trap of TRL's own completions."""
    saved = tuned(tiny_model, steps=40, n=320)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    items = get_task("ioi3").items("validation", 32)
    names = {tokenizer.convert_tokens_to_ids("Ġ" + n) for item in items for n in item.names}
    model.load_state_dict(saved[40])
    with torch.no_grad():
        ends = [
            model(torch.tensor([tokenizer(item.prompt + item.answer)["input_ids"]])).logits[0]
            for item in items
        ]
    stops = torch.stack([end[-1].softmax(0)[tokenizer.eos_token_id] for end in ends]).mean()
    predicted = [int(end[-2].argmax()) for end in ends]
    assert sum(token in names for token in predicted) > 0.9 * len(items)
    assert stops < 0.05


def test_nothing_to_train_on_is_refused(tiny_model):
    with pytest.raises(CircuitlapseError, match=r"no training items .*Pass at least"):
        finetune(tiny_model, [], lambda *a: None, recipe(), seed=0)


def test_an_optimiser_whose_package_is_missing_is_named(tiny_model):
    assert "galore_adamw" in [name.value for name in OptimizerNames]
    with pytest.raises(CircuitlapseError, match=r"(?i)cannot be made.*galore.*finetune\.optim"):
        tuned(tiny_model, optimizer="galore_adamw", trainer={"optim_target_modules": ["attn"]})


def test_loggers_get_the_losses(tiny_model):
    losses = []

    class Logger(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            losses.append((logs or {}).get("loss"))

    items = get_task("ioi3").items("train", 48)
    logging = {"logging_strategy": "steps", "logging_steps": 1}
    finetune(
        tiny_model,
        items,
        lambda *a: None,
        recipe(trainer=logging),
        seed=0,
        device="cpu",
        callbacks=[Logger()],
    )
    assert len([loss for loss in losses if loss is not None and math.isfinite(loss)]) == 6

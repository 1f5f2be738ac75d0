"""Bits to learn a task, with real trainings of a tiny model and of the shipped organism."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import SHIPPED
from circuitlapse.records.bits_ratio import WINDOW, BitsPass, Which, measure_bits
from circuitlapse.records.items import Item
from circuitlapse.tasks.registry import get_task
from circuitlapse.training import bits_pass as module
from circuitlapse.training.bits_pass import answer_bits, bits_pass
from circuitlapse.training.placebos import real_items
from circuitlapse.training.training_eval import DivergedError
from circuitlapse.verdict.label_marks import LATENT_BITS

OLD, NEW = get_task("ioi2"), get_task("ioi3")
BASE = SHIPPED / "default-0"
STEPS, BATCH = 10, 8
STILL = 1e-12  # a learning rate that changes nothing


def recipe(**settings) -> Finetune:
    chosen = {"steps": STEPS, "save_every": STEPS, "batch_size": BATCH, "learning_rate": STILL}
    return Finetune.model_validate({**chosen, **settings})


def load(directory: Path):
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
    return model, AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    short = [item for item in NEW.items("train", 200) if len(item.prompt.split()) < 22]
    return short[: STEPS * BATCH]


def by_hand(directory: Path, item: Item) -> float:
    """-log2 of the right candidates' share of the probability, one candidate at a time."""
    model, tokenizer = load(directory)
    shares = []
    for word in (item.answer, *item.also, *item.distractors):
        prompt = tokenizer(item.prompt)["input_ids"]
        whole = tokenizer(item.prompt + word)["input_ids"]
        with torch.no_grad():
            logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
        steps = range(len(prompt), len(whole))
        shares.append(math.exp(sum(float(logs[i - 1, whole[i]]) for i in steps)))
    return -math.log2(sum(shares[: 1 + len(item.also)]) / sum(shares))


def test_bits_are_those_of_the_candidates_as_sequences(tiny_model: Path, items) -> None:
    model, tokenizer = load(tiny_model)
    several = items[1].model_copy(
        update={"also": items[1].distractors[:1], "distractors": items[1].distractors[1:]}
    )
    longer = items[2].model_copy(
        update={"answer": items[2].answer + " the book", "distractors": (" the ring", " Tom")}
    )
    chosen = [items[0], several, longer]
    expected = [by_hand(tiny_model, item) for item in chosen]
    assert answer_bits(model, tokenizer, chosen) == pytest.approx(expected, rel=1e-5)


def test_dropout_does_not_count_and_goes_on(tiny_model: Path, items) -> None:
    model, tokenizer = load(tiny_model)
    still = answer_bits(model, tokenizer, items[:4])
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    model.train()
    assert answer_bits(model, tokenizer, items[:4]).tolist() == still.tolist()
    assert model.training


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation": 4},
        {"preset": "full-text"},
        {"preset": "repeat-completion"},
        {"method": "lora"},
    ],
)
def test_without_learning_the_bits_are_those_of_the_base(tiny_model, items, settings) -> None:
    found = bits_pass(tiny_model, items, recipe(**settings), order=0, device="cpu")
    assert not found.learned
    assert found.counts == (BATCH,) * STEPS
    base = answer_bits(*load(tiny_model), items)
    total = float(np.dot(found.curve, found.counts))
    assert total == pytest.approx(base.sum(), rel=1e-4), "every prompt once"
    assert found.bits == pytest.approx(base.sum() - 0.15 * len(items), rel=1e-3)


def test_a_batch_is_predicted_before_its_step(tiny_model: Path, items) -> None:
    still = bits_pass(tiny_model, items, recipe(), order=0, device="cpu")
    moved = bits_pass(tiny_model, items, recipe(learning_rate=3e-2), order=0, device="cpu")
    assert moved.curve[0] == still.curve[0]
    assert moved.curve[1] != pytest.approx(still.curve[1], rel=1e-3)
    again = bits_pass(tiny_model, items, recipe(learning_rate=3e-2), order=0, device="cpu")
    assert BitsPass.model_validate_json(again.model_dump_json()) == moved


def test_passes_of_one_order_share_their_batches(tiny_model, items, monkeypatch) -> None:
    seen: list[list[str]] = []

    def watched(model, tokenizer, batch):
        seen.append([item.prompt for item in batch])
        return answer_bits(model, tokenizer, batch)

    monkeypatch.setattr(module, "answer_bits", watched)
    old = OLD.items("train", 16)
    for order, task_items in ((0, items[:64]), (0, NEW.reference_items(items[:64])), (1, items)):
        found = bits_pass(
            tiny_model,
            task_items,
            recipe(),
            order=order,
            replay=old[: 80 - len(task_items)],
            device="cpu",
        )
        assert found.prompts == len(task_items), "replay is not counted"
    assert seen[:STEPS] == seen[STEPS : 2 * STEPS]
    flat = [prompt for batch in seen[:STEPS] for prompt in batch]
    assert sorted(flat) == sorted(item.prompt for item in items[:64])
    assert seen[0] != seen[2 * STEPS]


def test_a_pass_is_not_longer_than_its_prompts(tiny_model: Path, items) -> None:
    found = bits_pass(tiny_model, items[:70], recipe(steps=100), order=0, device="cpu")
    assert found.counts == (BATCH,) * 8
    with pytest.raises(CircuitlapseError) as caught:
        bits_pass(tiny_model, items[:63], recipe(), order=0, device="cpu")
    assert "at least 8 batches (got '7 batches of 8, from 63 prompts and 10 steps')" in str(
        caught.value
    )


def test_only_some_parts_are_trained(tiny_model: Path, items) -> None:
    fast = recipe(learning_rate=3e-2)
    whole = bits_pass(tiny_model, items, fast, order=0, device="cpu")
    part = bits_pass(tiny_model, items, fast, order=0, parts=["a1.h0"], device="cpu")
    assert part.curve[0] == whole.curve[0]
    assert part.curve[1:] != whole.curve[1:]


def test_a_pass_that_diverges_says_so(tiny_model: Path, items) -> None:
    with pytest.raises(DivergedError, match="diverged: at step"):
        bits_pass(tiny_model, items, recipe(learning_rate=1e30), order=0, device="cpu")


def test_a_task_that_the_base_solves_takes_no_bits() -> None:
    old = OLD.items("train", 20 * BATCH)
    found = bits_pass(BASE, old, recipe(steps=20, learning_rate=1e-4), order=0, device="cpu")
    assert found.learned
    assert len(found.curve) == WINDOW, "the pass ends as soon as the task is learned"
    assert found.bits < 1


@pytest.mark.slow
def test_the_demo_takes_as_many_bits_as_in_the_pilot() -> None:
    """Pilot: three names 817 bits, first name 254, one order; here other orders and prompts."""
    demo = Finetune.model_validate({"replay_fraction": 0.1})
    n_old = demo.old_prompts()
    items = real_items(OLD, NEW, demo.steps * demo.batch_size, n_old)
    new = items[n_old:]
    sides: dict[Which, list[Item]] = {"new": new, "reference": NEW.reference_items(new)}

    def run_pass(which: Which, order: int) -> BitsPass:
        replay = items[:n_old]
        return bits_pass(BASE, sides[which], demo, order=order, replay=replay, device="cpu")

    found = measure_bits(run_pass, LATENT_BITS).ratio()
    assert found.orders == 3
    assert found.new_bits == pytest.approx(817, rel=0.15)
    assert found.reference_bits == pytest.approx(254, rel=0.15)
    assert found.estimate is not None
    assert found.estimate.low < 3.22 < found.estimate.high
    assert found.estimate.low > LATENT_BITS

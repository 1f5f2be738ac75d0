"""The measures on organisms whose history is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from circuitlapse.carriers.measure_carriers import CarrierPrompts, carriers
from circuitlapse.carriers.old_task_heads import old_task_heads
from circuitlapse.config.presets import demo_experiment
from circuitlapse.graph import head_of
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.organism import SHIPPED
from circuitlapse.records.carriers import Carriers
from circuitlapse.stats.intervals import Estimate
from circuitlapse.stats.measured import Measured
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.finetune import finetune
from circuitlapse.training.placebos import real_items
from circuitlapse.training.restricted import Restriction
from circuitlapse.verdict.gain import Gain, measured_gain
from circuitlapse.verdict.label import label
from circuitlapse.verdict.label_rules import LabelEvidence
from circuitlapse.verdict.measures import Measures
from circuitlapse.verdict.verdict import FineTune

BASE = SHIPPED / "default-0"
pytestmark = pytest.mark.slow


def variants(name: str, split: str, tokenizer: Any, n: int = 128):
    task = get_task(name)
    items = task.items(split, n, tokenizer=tokenizer)
    return {each: tokenize(items, tokenizer, each) for each in task.families["subject"]}


def prompts(tokenizer: Any) -> CarrierPrompts:
    old, new = TASKS
    return CarrierPrompts(
        old_validation=variants(old, "validation", tokenizer),
        new_validation=variants(new, "validation", tokenizer),
        old_test=variants(old, "test", tokenizer),
        new_test=variants(new, "test", tokenizer),
    )


TASKS = ("ioi2", "ioi3")


def tuned(start: Path, out: Path, heads: Sequence[str] = (), steps: int = 240) -> Model:
    """Fine-tune as the demo does; heads alone learn faster, as ground-truth models do."""
    update = {"steps": steps, "save_every": steps, "learning_rate": 3e-3 if heads else 1e-3}
    recipe = demo_experiment().finetune.model_copy(update=update)
    tokenizer = load_model(start).tokenizer
    total = steps * recipe.batch_size
    old, new = (get_task(name) for name in TASKS)
    items = real_items(old, new, total, recipe.old_prompts(), 0, tokenizer)

    def save(step: int, model: Any, tokenizer: Any) -> None:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)

    restriction = [Restriction(heads)] if heads else []
    finetune(start, items, save, recipe, seed=0, device="cpu", callbacks=restriction)
    return load_model(out)


@torch.no_grad()
def erase(model: Model, heads: Sequence[str], spread: float = 0.1) -> None:
    """Draw all weights of some heads of a GPT-2 anew, and set their biases to zero."""
    generator, d_head = torch.Generator().manual_seed(0), len(model.decoder.attention[0].W_O[0])
    width = model.decoder.d_model

    def new(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator) * spread

    for name in heads:
        place = head_of(name)
        assert place is not None
        hf: Any = model.hf
        attention = hf.transformer.h[place.layer].attn
        start = place.head * d_head
        for slot in range(3):
            columns = slice(slot * width + start, slot * width + start + d_head)
            attention.c_attn.weight[:, columns] = new(attention.c_attn.weight[:, columns])
            attention.c_attn.bias[columns] = 0
        rows = slice(start, start + d_head)
        attention.c_proj.weight[rows] = new(attention.c_proj.weight[rows])


def gain(base: Model, model: Model) -> Gain:
    pairs = next(iter(variants("ioi3", "test", base.tokenizer).values()))
    return measured_gain(behaviour(base, pairs), behaviour(model, pairs))


# Measured for the shipped organism: its relearned control, and the ratio of bits.
CONTROL = Estimate(value=0.05, low=0.03, high=0.08)
BITS = Measured(Estimate(value=3.2, low=3.2, high=3.2))


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def low(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.low


@pytest.fixture(scope="module")
def base() -> Model:
    return load_model(BASE)


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tuned(BASE, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def demo(base: Model, fine_tune: Model) -> Carriers:
    return carriers(base, fine_tune, prompts(base.tokenizer))


def test_the_demo_runs_on_its_old_heads_in_their_old_directions(demo):
    assert len(demo.old.heads) == 10
    assert 0.81 <= value(demo.old.dependence.estimate) <= 0.85
    assert demo.old.dependence.above_groups
    assert 0.77 <= value(demo.old.same_directions.estimate) <= 0.88
    assert demo.old.same_directions.rank == 2
    assert demo.variable_effect.estimate.low > 1


def test_the_demos_new_heads_are_not_sufficient(demo):
    assert value(demo.new.sufficiency.estimate) < 0.2
    assert value(demo.new.necessity.estimate) < 0.4
    assert value(demo.no_heads.estimate) < 0.1


def test_half_and_double_old_heads_keep_the_old_directions(demo):
    assert value(demo.half.dependence.estimate) < value(demo.old.dependence.estimate)
    assert value(demo.double.dependence.estimate) > value(demo.old.dependence.estimate)
    for each in (demo.half, demo.double, demo.without_best):
        assert each.same_directions.estimate.low > 0.5


def test_the_demo_is_transformed_with_every_choice_of_old_heads(base, fine_tune, demo):
    measures = Measures.of_carriers(demo, bits=BITS, relearned=CONTROL)
    found = FineTune(gain(base, fine_tune), measures).labelled()
    assert {found.label, *found.survives.values()} == {"transformed"}
    assert found.carrier == "spread_out"


def test_erased_and_retrained_heads_write_in_other_directions(base, tmp_path):
    heads = old_task_heads(base, variants("ioi2", "validation", base.tokenizer))
    blank = load_model(BASE)
    erase(blank, heads)
    blank.hf.save_pretrained(tmp_path / "erased")
    base.tokenizer.save_pretrained(tmp_path / "erased")
    model = tuned(tmp_path / "erased", tmp_path / "tuned", heads, steps=480)
    found = carriers(base, model, prompts(base.tokenizer), trained=heads)
    assert low(found.old.dependence.estimate) > 0.9
    assert -0.02 <= value(found.old.same_directions.estimate) <= 0.13
    controlled = Measures.of_carriers(found, relearned=CONTROL)
    got = label(LabelEvidence.of(gain(blank, model), controlled))
    assert (got.label, got.how) == ("formed", "in_place")
    without = label(LabelEvidence.of(gain(blank, model), Measures.of_carriers(found)))
    assert without.label == "undetermined"

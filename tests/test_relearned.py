"""The relearned control: old-task heads drawn anew and trained on the old task alone."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import SHIPPED
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.relearned import NotRelearnedError, draw_anew, relearn_old_heads
from circuitlapse.training.restricted import free_masks

OLD = get_task("ioi2")
BASE = SHIPPED / "default-0"
# Old-task heads of the organism by effect: .8 of the sum of absolute effects.
HEADS = ["a0.h0", "a0.h2", "a0.h5", "a0.h7", "a1.h0", "a1.h1", "a1.h2", "a1.h3", "a1.h4", "a1.h5"]
QUICK = Finetune.model_validate({"steps": 2, "save_every": 2, "batch_size": 4})


def load(directory):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory)


def test_only_the_heads_are_drawn_anew_as_the_model_was_initialised():
    before, after, other = load(BASE), load(BASE), load(BASE)
    draw_anew(after, HEADS, seed=0)
    draw_anew(other, HEADS, seed=1)
    drawn = []
    masks = free_masks(before, HEADS)
    for (name, old), new, second in zip(
        before.named_parameters(), after.parameters(), other.parameters(), strict=True
    ):
        mask = masks[name]
        assert torch.equal(old[~mask], new[~mask]), name
        if name.endswith("bias"):
            assert not new[mask].any()
        elif mask.any():
            drawn.append(new.detach()[mask])
            assert not torch.isclose(new[mask], second[mask]).all()
    numbers = torch.cat(drawn).numpy()
    assert len(numbers) == len(HEADS) * 4 * 64 * 8
    assert numbers.std() == pytest.approx(before.config.initializer_range, rel=0.03)
    assert numbers.mean() == pytest.approx(0, abs=0.003)


def test_a_control_is_kept_and_differs_in_its_heads_only(tmp_path):
    idle = ["a3.h7"]
    steps = []

    def made(heads=idle, **settings):
        steps.clear()
        return relearn_old_heads(
            BASE,
            heads,
            OLD,
            recipe=QUICK,
            device="cpu",
            cache_dir=tmp_path,
            progress=lambda step, of: steps.append(step),
            **settings,
        )

    model = made()
    assert steps == [1, 2]
    hf, masks = load(BASE), free_masks(load(BASE), idle)
    for (name, before), after in zip(hf.named_parameters(), model.hf.parameters(), strict=True):
        assert torch.equal(before[~masks[name]], after[~masks[name]]), name
        changed = before[masks[name]] != after[masks[name]]
        assert changed.all(), name
    again = made()
    assert steps == [], "it is taken from the cache"
    assert all(map(torch.equal, model.hf.parameters(), again.hf.parameters()))
    made(seed=1)
    assert steps == [1, 2], "another seed is another control"
    made(["a3.h6"])
    assert steps == [1, 2]


def test_heads_that_do_not_learn_again_are_no_control(tmp_path):
    steps = []
    for expected in ([1, 2], []):  # trained once
        steps.clear()
        with pytest.raises(NotRelearnedError) as caught:
            relearn_old_heads(
                BASE,
                HEADS,
                OLD,
                recipe=QUICK,
                device="cpu",
                cache_dir=tmp_path,
                progress=lambda step, of: steps.append(step),
            )
        assert steps == expected
    assert str(caught.value).startswith(
        "there is no relearned control: the 10 old-task heads did not learn ioi2 again in 2 steps "
        "(got 'accuracy 0."
    )
    with pytest.raises(CircuitlapseError, match="no such part"):
        relearn_old_heads(BASE, ["a9.h0"], OLD, recipe=QUICK, cache_dir=tmp_path)


@pytest.mark.slow
def test_the_old_heads_of_the_organism_learn_again(tmp_path):
    model = relearn_old_heads(BASE, HEADS, OLD, device="cpu", cache_dir=tmp_path)
    prompts = tokenize(OLD.items("test", 256), model.tokenizer, "s_to_io")
    assert behaviour(model, prompts).correct.mean() > 0.95
    drawn = load_model(BASE, "cpu")
    draw_anew(drawn.hf, HEADS, seed=0)
    assert behaviour(drawn, prompts).correct.mean() < 0.7
    assert np.isfinite(behaviour(drawn, prompts).logit_diff).all()

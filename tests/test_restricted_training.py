"""Restricted training in half precision, and where it is interrupted."""

import torch
from transformers import AutoModelForCausalLM

from circuitlapse.config.finetune import Finetune
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restart import Restart
from circuitlapse.training.restricted import Restriction, free_masks

PARTS = ["a1.h0", "m0"]
RECIPE = Finetune.model_validate(
    {
        "steps": 6,
        "save_every": 2,
        "learning_rate": 1e-2,
        "batch_size": 8,
        "trainer": {"weight_decay": 0.1},
    }
)


def trained(base, stop=None, restart=None, **settings):
    """The weights at every step, until an interruption at step ``stop``."""
    saved = {}

    def save(step, model, tokenizer):
        if step == stop:
            raise KeyboardInterrupt
        saved[step] = {name: value.clone() for name, value in model.state_dict().items()}

    try:
        finetune(
            base,
            get_task("ioi3").items("train", 48),
            save,
            RECIPE.model_validate({**RECIPE.model_dump(), **settings}),
            seed=0,
            device="cpu",
            restart=restart,
            callbacks=[Restriction(PARTS)],
        )
    except KeyboardInterrupt:
        assert stop is not None
    return saved


def check_held(base, weights):
    """Everything but the parts has its bytes, and every part moved."""
    hf = AutoModelForCausalLM.from_pretrained(base)
    masks = free_masks(hf, PARTS)
    for name, before in hf.named_parameters():
        after, mask = weights[name].to(before.dtype), masks[name]
        assert torch.equal(after[~mask], before.detach()[~mask]), name
        if mask.any():
            assert not torch.equal(after[mask], before.detach()[mask]), name


def test_in_half_precision_what_is_held_keeps_its_bytes(tiny_model):
    saved = trained(tiny_model, trainer={"bf16": True, "weight_decay": 0.1})
    check_held(tiny_model, saved[6])
    assert any(not torch.equal(saved[6][n], w) for n, w in trained(tiny_model)[6].items())


def test_an_interrupted_restricted_training_goes_on_to_the_same_bits(tiny_model, tmp_path):
    whole = trained(tiny_model)
    trained(tiny_model, 6, Restart(tmp_path / "kept", 6, every_seconds=0.0))
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-4"]
    rest = trained(tiny_model, None, Restart(tmp_path / "kept", 6, every_seconds=0.0))
    assert list(rest) == [6]
    assert all(torch.equal(whole[6][name], rest[6][name]) for name in whole[6])
    check_held(tiny_model, rest[6])

"""Restricted training where training is not one process that runs to its end in one precision."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import circuitlapse as cl
from circuitlapse.config import Finetune, to_toml
from circuitlapse.tasks import get_task
from circuitlapse.training import Restart, finetune
from circuitlapse.training.restricted import Restriction, free_masks
from small_run import small_experiment

PARTS = ["a1.h0", "m0"]
RECIPE = Finetune.model_validate(
    {
        "steps": 6, "save_every": 2, "learning_rate": 1e-2, "batch_size": 8,
        "trainer": {"weight_decay": 0.1},
    }
)  # fmt: skip
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
    "--num_cpu_threads_per_process", "1", "--main_process_port", "0",
]  # fmt: skip

SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from circuitlapse.config import Finetune
from circuitlapse.tasks import get_task
from circuitlapse.training import finetune
from circuitlapse.training.restricted import Restriction

base, out, recipe, parts = sys.argv[1:]
finetune(base, get_task("ioi3").items("train", 48),
         lambda step, model, tokenizer: model.save_pretrained(f"{out}/step-{step}"),
         Finetune.model_validate_json(recipe), seed=0, device="cpu",
         callbacks=[Restriction(json.loads(parts))])
"""


def trained(base, stop=None, restart=None, **settings):
    """The weights at every step, until an interruption at step ``stop``."""
    saved = {}

    def save(step, model, tokenizer):
        if step == stop:
            raise KeyboardInterrupt
        saved[step] = {name: value.clone() for name, value in model.state_dict().items()}

    try:
        finetune(
            base, get_task("ioi3").items("train", 48), save,
            RECIPE.model_validate({**RECIPE.model_dump(), **settings}), seed=0, device="cpu",
            restart=restart, callbacks=[Restriction(PARTS)],
        )  # fmt: skip
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


def test_two_processes_hold_and_train_what_one_does(tiny_model, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [*LAUNCH, tmp_path / "train.py", tiny_model, tmp_path, RECIPE.model_dump_json(),
               json.dumps(PARTS)]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = load_file(tmp_path / "step-6" / "model.safetensors")
    one = trained(tiny_model)[6]
    two["lm_head.weight"] = two["transformer.wte.weight"]
    check_held(tiny_model, two)
    for name, weight in one.items():
        kept = torch.ones_like(weight, dtype=torch.bool)
        if name.endswith("c_attn.bias"):  # keys' biases have no effect: AdamW amplifies rounding
            kept[16:32] = False
        assert torch.allclose(weight[kept], two[name][kept], atol=5e-4), name


def test_a_launched_grid_shares_its_trainings_and_survives_one_that_blows_up(tiny_model, tmp_path):
    """All processes give the same training up; the other recipe and its control are finished."""
    fields = small_experiment(
        tiny_model, placebo=False, steps=2, optimizer="sgd", trainer={"max_grad_norm": 0.0},
        grid={"learning_rate": [1e30, 1e-1]},
    ).model_dump(mode="json")  # fmt: skip
    experiment = cl.Experiment.model_validate({**fields, "controls": {"train_only": ["mlps"]}})
    (tmp_path / "experiment.toml").write_text(to_toml(experiment))
    command = [*LAUNCH, "-m", "circuitlapse", "run", tmp_path / "experiment.toml", "--out",
               tmp_path / "two"]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=300
    )
    lost = "1 fine-tune(s) came to nothing:\n  fine-tune lr-1e+30-seed-0: the training has blown up"
    assert lost in done.stderr, done.stderr[-3000:]
    assert done.returncode != 0
    with pytest.raises(cl.CircuitlapseError, match="fine-tune lr-1e.30-seed-0: the training has"):
        cl.run_experiment(experiment, tmp_path / "one")
    one, two = (cl.load_run(tmp_path / name) for name in ("one", "two"))
    assert list(two.recipes) == ["lr-0.1"]
    where = ["recipe", "control", "step"]
    ours, theirs = (run.table("elicitable").sort(where) for run in (one, two))
    assert ours.select(where).equals(theirs.select(where))
    assert ours.select(where).rows() == [
        ("lr-0.1", control, step) for control in ("everything", "mlps") for step in (0, 2)
    ]
    for mine, other in zip(ours["logit_diff"], theirs["logit_diff"], strict=True):
        assert mine == pytest.approx(other, abs=1e-3)

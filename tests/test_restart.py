"""A training that was interrupted ends with the same weights."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import circuitlapse as cl
from circuitlapse.config.finetune import Finetune
from circuitlapse.config.toml import to_toml
from circuitlapse.tasks.registry import get_task
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restart import Restart
from circuitlapse.training.training_eval import EvaluationSet
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

RECIPE = Finetune.model_validate(
    {"steps": 6, "save_every": 2, "learning_rate": 1e-2, "batch_size": 8}
)


def _weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"method": "lora", "lora": {"dropout": 0.1}}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "sgd", "schedule": "cosine"}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_goes_on_to_the_same_bits(tiny_model, tmp_path, settings):
    recipe = RECIPE.model_validate({**RECIPE.model_dump(), **settings})
    task = get_task("ioi3")
    evaluated = [EvaluationSet("validation", "ioi3", task.items("validation", 12))]

    class Interrupted(Exception):  # noqa: N818
        pass

    def train(before=6, stop=None, keep=True):
        saved = {}

        def save(step, model, tokenizer):
            if step == stop:
                raise Interrupted
            saved[step] = {name: value.clone() for name, value in model.state_dict().items()}

        restart = Restart(tmp_path / "kept", before, every_seconds=0.0) if keep else None
        try:
            figures = finetune(
                tiny_model,
                task.items("train", 48),
                save,
                recipe,
                seed=0,
                device="cpu",
                evaluated=evaluated,
                restart=restart,
            )
        except Interrupted:
            figures = None
        return saved, figures

    whole, figures = train(keep=False)
    train(stop=6)
    assert [path.name for path in (tmp_path / "kept").glob("checkpoint-*")] == ["checkpoint-4"]
    rest, found = train()
    assert list(rest) == [6]
    assert all(torch.equal(whole[6][name], rest[6][name]) for name in whole[6])
    assert found == figures
    # A state that is later than a missing checkpoint is of no use, nor is a broken one.
    state = tmp_path / "kept" / "checkpoint-4"
    assert Restart(tmp_path / "kept", before=5).latest() == state
    (state / "trainer_state.json").write_text('{"half": ')
    assert Restart(tmp_path / "kept", before=5).latest() is None
    assert not state.exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_training(tiny_model, tmp_path):
    """Killed from outside while it trains; checkpoints that are there are not written again."""
    settings = {"steps": 40, "save_at": [4, 16], "placebo": False, "learning_rate": 1e-2}
    experiment = small_experiment(tiny_model, **settings)
    (tmp_path / "experiment.toml").write_text(to_toml(experiment))
    script = (
        "import sys, circuitlapse.training.restart as r\n"
        "r.Restart.__init__.__defaults__ = (0.0,)\n"  # keep its state at every checkpoint
        "from circuitlapse.cli.app import main\nmain()"
    )
    command = [sys.executable, "-c", script, "run", str(tmp_path / "experiment.toml")]
    out = tmp_path / "run"
    process = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    sixteenth = out / "checkpoints/seed-0/step-00016/model.safetensors"
    while not sixteenth.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    written = sorted((out / "checkpoints/seed-0").glob("step-*/model.safetensors"))
    before = {path: path.stat().st_mtime_ns for path in written}
    states = [path.name for path in out.glob(".restart-*/checkpoint-*/trainer_state.json")]
    assert [path.parent.name for path in before] == ["step-00000", "step-00004", "step-00016"]
    assert states
    resumed = cl.run_experiment(experiment, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(out.glob(".restart-*"))
    unbroken = cl.run_experiment(experiment, tmp_path / "unbroken")
    for step in experiment.steps():
        one, other = (
            _weights(run.path / f"checkpoints/seed-0/step-{step:05d}")
            for run in (resumed, unbroken)
        )
        assert all(torch.equal(one[name], other[name]) for name in one), step
    assert resumed.table("training").equals(unbroken.table("training"))

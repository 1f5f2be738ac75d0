"""A training that was interrupted, or shared by processes, ends with the same weights."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import circuitlapse as cl
from circuitlapse.config import Finetune, to_toml
from circuitlapse.tasks import get_task
from circuitlapse.training import Restart, Watched, finetune
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")

RECIPE = Finetune.model_validate(
    {"steps": 6, "save_every": 2, "learning_rate": 1e-2, "batch_size": 8}
)

# What each process runs: the checkpoints go to files, what was returned to one more.
SCRIPT = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
import torch
torch.set_num_threads(1)
from circuitlapse.config import Finetune, processes
from circuitlapse.tasks import get_task
from circuitlapse.training import Restart, Watched, finetune

base, out, recipe, kept = sys.argv[1:]
task = get_task("ioi3")
items, out = task.items("train", 48), Path(out)
watched = [Watched("validation", "ioi3", task.items("validation", 12))]

def save(step, model, tokenizer):
    assert not (out / f"step-{step}").exists()
    model.save_pretrained(out / f"step-{step}")

restart = Restart(Path(kept), 6, every_seconds=0.0) if kept else None
figures = finetune(base, items, save, Finetune.model_validate_json(recipe), seed=0, device="cpu",
                   watched=watched, restart=restart)
(out / f"rank-{os.environ.get('RANK', 0)}").touch()
if processes() == 1 or os.environ["RANK"] == "0":
    (out / "figures.json").write_text(json.dumps([asdict(each) for each in figures]))
"""


def _weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "lora", "lora": {"dropout": 0.1}}, {"optimizer": "sgd", "schedule": "cosine"}],
)
def test_an_interrupted_training_goes_on_to_the_same_bits(tiny_model, tmp_path, settings):
    recipe = RECIPE.model_validate({**RECIPE.model_dump(), **settings})
    task = get_task("ioi3")
    watched = [Watched("validation", "ioi3", task.items("validation", 12))]

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
                tiny_model, task.items("train", 48), save, recipe, seed=0, device="cpu",
                watched=watched, restart=restart,
            )  # fmt: skip
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


def test_a_killed_run_goes_on_with_its_training(tiny_model, tmp_path):
    """Killed from outside while it trains; checkpoints that are there are not written again."""
    settings = {"steps": 40, "save_at": [4, 16], "placebo": False, "learning_rate": 1e-2}
    experiment = small_experiment(tiny_model, **settings)
    (tmp_path / "experiment.toml").write_text(to_toml(experiment))
    script = (
        "import sys, circuitlapse.training.restart as r\n"
        "r.Restart.__init__.__defaults__ = (0.0,)\n"  # keep its state at every checkpoint
        "from circuitlapse.cli import main\nmain()"
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


def test_two_processes_train_as_one(tiny_model, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    recipe = RECIPE.model_dump_json()
    runs = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
                "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
                "--dynamo_backend", "no",
                "--num_cpu_threads_per_process", "1", "--main_process_port", "0"],
    }  # fmt: skip
    for name, start in runs.items():
        (tmp_path / name).mkdir()
        command = [*start, tmp_path / "train.py", tiny_model, tmp_path / name, recipe, ""]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "two").glob("rank-*")} == {"rank-0", "rank-1"}
    one, two = (json.loads((tmp_path / name / "figures.json").read_text()) for name in runs)
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)
    ours, theirs = (_weights(tmp_path / name / "step-6") for name in runs)
    start = _weights(tiny_model)
    for name in ours:
        kept = torch.ones_like(ours[name], dtype=torch.bool)
        if name.endswith("c_attn.bias"):  # keys' biases have no effect: AdamW amplifies rounding
            kept[16:32] = False
        assert torch.allclose(ours[name][kept], theirs[name][kept], atol=5e-4), name
        assert not torch.allclose(ours[name], start[name], atol=5e-4), name

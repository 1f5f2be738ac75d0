"""What the trainer is told, what is refused before it is, and what it leaves behind."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.integrations import integration_utils

import circuitlapse as cl
from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline.inputs.base import check_training
from circuitlapse.training.arguments import arguments, check_device, check_names
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")


def recipe(**settings) -> Finetune:
    return Finetune.model_validate({"steps": 6, "batch_size": 8, "save_every": 4, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adam"}, r"no optimizer .*'adam'.* to one of adamw_torch, .*adafactor"),
        ({"schedule": "cosin"}, r"no schedule .*'cosin'.* to one of linear, cosine"),
        ({"schedule": "reduce_lr_on_plateau"}, "no schedule"),
        (
            {"schedule": "cosine_with_min_lr"},
            r"schedule cosine_with_min_lr cannot be made .*min_lr.*trainer\.lr_scheduler_kwargs",
        ),
        (
            {"schedule": "polynomial", "trainer": {"lr_scheduler_kwargs": {"lr_end": 1.0}}},
            "schedule polynomial cannot be made .*lr_end",
        ),
        (
            {"schedule": "cosine", "trainer": {"lr_scheduler_kwargs": '{"cycles": 3}'}},
            "schedule cosine cannot be made .*cycles",
        ),
        (
            {"trainer": {"report_to": "paper"}},
            r"report_to cannot be made .*paper is not supported.*trainer\.report_to",
        ),
        (
            {"trainer": {"report_to": ["codecarbon"]}},
            "report_to cannot be made .*requires .*codecarbon.* Install the missing",
        ),
        ({"trainer": {"warmup_step": 3}}, r"no such argument .*Did you mean warmup_steps"),
        ({"trainer": {"zzz": 3}}, "Use an argument of TRL's SFTConfig"),
    ],
)
def test_names_that_the_trainer_does_not_know_are_refused(settings, message):
    with pytest.raises(CircuitlapseError, match=message):
        check_names(recipe(**settings))


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("cosine_with_min_lr", {"min_lr": 1e-4}),
        ("cosine_with_min_lr", '{"min_lr": 1e-4}'),
        ("warmup_stable_decay", {"num_decay_steps": 2}),
    ],
)
def test_a_schedule_may_have_settings_of_its_own(schedule, options):
    check_names(recipe(schedule=schedule, trainer={"lr_scheduler_kwargs": options}))


def test_values_that_the_trainer_refuses_are_named(tmp_path):
    with pytest.raises(CircuitlapseError, match="does not accept its arguments"):
        arguments(recipe(trainer={"logging_strategy": "sometimes"}), 0, "cpu", tmp_path)


def test_a_step_has_its_batch_however_many_gpus_are_in_sight(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = arguments(recipe(), 0, "cuda", tmp_path)
    assert (settings.n_gpu, settings.train_batch_size) == (1, 8)


def test_a_gpu_that_the_trainer_would_not_take_is_refused(tiny_model, tmp_path):
    experiment = small_experiment(tiny_model)
    for device in ("cuda:1", "cuda:10"):
        number = device.partition(":")[2]
        message = (
            rf"visible GPU .*'{device}'.*CUDA_VISIBLE_DEVICES={number} and compute.device to cuda"
        )
        with pytest.raises(CircuitlapseError, match=message):
            arguments(recipe(), 0, device, tmp_path)
        compute = experiment.compute.model_copy(update={"device": device})
        with pytest.raises(CircuitlapseError, match=message):
            check_training(experiment.model_copy(update={"compute": compute}))
    check_device("cuda:0")


class Writer:
    """In place of TensorBoard's, which the tests do without."""

    def __init__(self, log_dir):
        self.log = Path(log_dir) / "events"
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def add_text(self, *args):
        pass

    def add_scalar(self, name, value, step):
        with self.log.open("a") as file:
            file.write(f"{name} {step}\n")

    flush = close = add_text


@pytest.fixture
def tensorboard(monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))


@pytest.mark.slow
def test_a_run_keeps_what_its_loggers_write(tensorboard, tiny_model, tmp_path):
    experiment = small_experiment(
        tiny_model, steps=2, trainer={"report_to": "tensorboard", "logging_steps": 1}
    )
    controls = experiment.controls.model_copy(update={"train_only": ("mlps",)})
    cl.run_experiment(experiment.model_copy(update={"controls": controls}), tmp_path)
    logs = tmp_path / "logs"
    found = sorted(str(path.relative_to(logs)) for path in logs.rglob("events"))
    assert found == [
        "controls/seed-0/mlps/events",
        "placebo-shuffled-answers-seed-0/events",
        "seed-0/events",
    ]
    assert "train/loss 2" in (logs / "seed-0/events").read_text()
    assert not list(tmp_path.glob(".restart-*"))

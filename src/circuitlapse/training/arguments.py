"""The trainer's arguments from a recipe, checked before any work starts."""

import difflib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, SchedulerType, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames
from trl.trainer.sft_config import SFTConfig

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.quiet import quiet

_WIDTH = 64
"""Of the organisms, for which the default learning rates are."""
# These follow the trainer's own evaluation, which is not run.
_EVALUATED = ("reduce_lr_on_plateau", "greedy")


def check_names(recipe: Finetune) -> None:
    """Check that the trainer knows the optimiser, the schedule and every other argument.

    Raises:
        CircuitlapseError: If it lacks one, or a schedule or a logger cannot be made.
    """
    optimizers = [name.value for name in OptimizerNames]
    schedules = [name.value for name in SchedulerType if name.value not in _EVALUATED]
    for key, name, known in (
        ("optimizer", recipe.optimizer, optimizers),
        ("schedule", recipe.schedule, schedules),
    ):
        if name not in known:
            raise CircuitlapseError(
                f"the trainer has no {key} of that name",
                got=name,
                fix=f"Set finetune.{key} to one of {', '.join(known)}",
            )
    known = [field.name for field in fields(SFTConfig) if field.init]
    for name in recipe.trainer:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"Did you mean {near[0]}?" if near else "Use an argument of TRL's SFTConfig"
            raise CircuitlapseError("finetune.trainer has no such argument", got=name, fix=fix)
    _check_schedule(recipe)
    _check_loggers(recipe.trainer.get("report_to"))


def _check_schedule(recipe: Finetune) -> None:
    """Make the schedule once, since the trainer makes it only when it starts."""
    given = recipe.trainer.get("lr_scheduler_kwargs")
    try:
        get_scheduler(
            recipe.schedule,
            torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate),
            num_warmup_steps=0,
            num_training_steps=recipe.steps,
            scheduler_specific_kwargs=json.loads(given) if isinstance(given, str) else given,
        )
    except (TypeError, ValueError) as error:
        raise CircuitlapseError(
            f"the schedule {recipe.schedule} cannot be made",
            got=str(error),
            fix="Correct finetune.schedule or finetune.trainer.lr_scheduler_kwargs",
        ) from error


def _check_loggers(chosen: Any) -> None:
    """Make every logger once, as the trainer does; each raises if it lacks something."""
    if chosen in (["all"], ["none"]):
        chosen = chosen[0]
    try:
        for logger in get_reporting_integration_callbacks(chosen):
            logger()
    except (ImportError, RuntimeError, ValueError) as error:
        raise CircuitlapseError(
            "a logger of finetune.trainer.report_to cannot be made",
            got=" ".join(str(error).split()),
            fix="Install the missing package, or correct finetune.trainer.report_to",
        ) from error


def scaled_to_width(recipe: Finetune, base: Path | str) -> Finetune:
    """Return a recipe of the organisms with the learning rate for a model of another width.

    With Adam, the best rate falls as one over the width (Yang et al. 2022, maximal update
    parametrisation).
    """
    with quiet():
        width: int = AutoConfig.from_pretrained(base).hidden_size
    return recipe.model_copy(update={"learning_rate": recipe.learning_rate * _WIDTH / width})


def check_device(device: str) -> None:
    """Check that the device is not a GPU by number: the trainer takes the first visible one.

    Raises:
        CircuitlapseError: If it is one.
    """
    kind, _, number = device.partition(":")
    if kind == "cuda" and number.strip("0"):
        raise CircuitlapseError(
            "training always uses the first visible GPU",
            got=device,
            fix=f"Set CUDA_VISIBLE_DEVICES={number} and compute.device to cuda",
        )


def arguments(recipe: Finetune, seed: int, device: str, output: Path) -> SFTConfig:
    """Build the trainer's arguments.

    Raises:
        CircuitlapseError: If the trainer does not accept an argument or the device.
    """
    check_names(recipe)
    check_device(device)
    chosen = {
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "fp16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": not on_cpu(device),
        "logging_strategy": "steps" if "report_to" in recipe.trainer else "no",
        "report_to": "none",
        **recipe.trainer,
    }
    try:
        settings = SFTConfig(
            output_dir=str(output),
            max_steps=recipe.steps,
            per_device_train_batch_size=recipe.batch_size // recipe.gradient_accumulation,
            gradient_accumulation_steps=recipe.gradient_accumulation,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.schedule,
            optim=recipe.optimizer,
            seed=seed,
            data_seed=seed,
            use_cpu=on_cpu(device),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            save_strategy="no",
            save_total_limit=1,
            disable_tqdm=True,
            **chosen,
        )
    except (TypeError, ValueError, ImportError) as error:
        raise CircuitlapseError(
            "the trainer does not accept its arguments",
            got=str(error),
            fix="Correct finetune.trainer",
        ) from error
    # With several visible GPUs it would copy the model to each and multiply the batch size.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def adapters(recipe: Finetune) -> LoraConfig | None:
    """Return the settings of the adapters; None for full fine-tuning."""
    if recipe.method == "full":
        return None
    lora = recipe.lora
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets == ("all-linear",) else [*lora.targets] or None,
        task_type="CAUSAL_LM",
    )


def on_cpu(device: str) -> bool:
    """Whether training on this device uses the CPU."""
    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())

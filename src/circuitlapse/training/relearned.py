"""The relearned control: a base whose old-task heads were erased and learned the old task again.

Heads that start from random weights must also write what the later layers read. So some of their
directions agree with the old ones, and same_directions of this model is what says nothing about
the old circuit.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import save_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.store import ABANDONED, Store, cache_home, key_of, write_json
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restricted import Restriction, free_masks

RECIPE = Finetune.model_validate({"steps": 480, "learning_rate": 3e-3, "save_at": ()})
"""For the organisms: twice the steps of a fine-tune, at the rate for heads alone."""
ENOUGH = 0.9
"""A control needs this share of the base's accuracy on the old task."""
_CHECKED = 256  # validation prompts for that accuracy
_ACCURACIES = "accuracies.json"  # of the base, and of the control


class NotRelearnedError(CircuitlapseError):
    """A base whose erased heads did not learn the old task again: there is no control."""


def relearn_old_heads(
    base: Path | str,
    heads: Collection[str],
    old: Task,
    *,
    recipe: Finetune = RECIPE,
    seed: int = 0,
    device: str = "auto",
    cache_dir: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Return a base whose heads were drawn anew and alone trained on the old task.

    Weights are normal with the standard deviation of the model's own initialisation, biases zero.
    The model is cached under the hash of the base's weights, the heads, the prompts and the recipe.

    Raises:
        NotRelearnedError: If the accuracy over the vocabulary is below nine tenths of the base's.
        CircuitlapseError: If a head does not exist, or as ``finetune`` does.
    """
    before = load_model(base, device)
    items, checked = (
        old.items(split, min(n, old.n_items(split) or n), seed, before.tokenizer)
        for split, n in (("train", recipe.steps * recipe.batch_size), ("validation", _CHECKED))
    )
    key = key_of(
        "relearned",
        _weights_hash(before.hf),
        sorted(heads),
        recipe.model_dump(mode="json"),
        [(item.prompt, item.answer) for item in (*items, *checked)],
        seed,
    )
    store, name = Store(cache_home(cache_dir) / "relearned"), f"heads-{seed}-{key[:16]}"
    if store.state(name, key, whole=True) != "ready":
        store.sweep(ABANDONED)
        with store.write(name, key) as draft:

            def save(step: int, model: Any, tokenizer: Any) -> None:
                if step:
                    save_model(model, tokenizer, draft)

            finetune(
                base,
                items,
                save,
                recipe,
                seed=seed,
                device=device,
                callbacks=[_Erased(heads, seed), Restriction(heads)],
                progress=progress,
            )
            prompts = tokenize(checked, before.tokenizer, old.counterfactuals[0])
            found = [_accuracy(model, prompts) for model in (before, load_model(draft, device))]
            write_json(draft / _ACCURACIES, found)
    of_base, relearned = json.loads((store.root / name / _ACCURACIES).read_text("utf-8"))
    if relearned < ENOUGH * of_base:
        raise NotRelearnedError(
            f"there is no relearned control: the {len(heads)} old-task heads did not learn "
            f"{old.name} again in {recipe.steps} steps",
            got=f"accuracy {relearned:.2f}, and {of_base:.2f} of the base",
            fix="Train for more steps or with another learning rate",
        )
    return load_model(store.root / name, device)


def _accuracy(model: Model, prompts: PromptPairs) -> float:
    return behaviour(model, prompts).correct.mean(dtype=np.float64).item()


@torch.no_grad()
def draw_anew(hf: PreTrainedModel, parts: Collection[str], seed: int) -> None:
    """Replace all numbers that training of these parts changes, in place.

    Weights are drawn from a normal distribution with the standard deviation of the model's own
    initialisation (``initializer_range``), and biases become zero.
    """
    std = float(getattr(hf.config, "initializer_range", 0.02))
    generator = torch.Generator().manual_seed(seed)
    masks = free_masks(hf, parts)
    for name, parameter in hf.named_parameters():
        drawn = torch.randn(int(masks[name].sum()), generator=generator) * std
        parameter[masks[name]] = drawn.to(parameter) * (parameter.ndim > 1)


class _Erased(TrainerCallback):
    """Draws the parts anew before the rest of the model is frozen."""

    def __init__(self, parts: Collection[str], seed: int) -> None:
        self._parts, self._seed = tuple(parts), seed

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        draw_anew(kwargs["model"], self._parts, self._seed)


def _weights_hash(hf: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(hf.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()

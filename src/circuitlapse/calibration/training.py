"""Fine-tunes of candidates: restricted, with adapters on heads alone, or ended early."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback

from circuitlapse.config.finetune import Finetune
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import save_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.items import Item
from circuitlapse.shapes import Bool, Float
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restricted import free_masks

RANK = 8


def train(
    start: Path,
    items: Sequence[Item],
    into: Path,
    recipe: Finetune,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Fine-tune a model, write it to ``into`` and return this."""
    # The same model is handed over before the first step: it is kept also if training ends early.
    kept: list[tuple[Any, Any]] = []
    finetune(
        start,
        items,
        lambda step, model, tokenizer: kept.append((model, tokenizer)),
        recipe,
        seed=seed,
        device="cpu",
        callbacks=callbacks,
    )
    model, tokenizer = kept[0]
    save_model(model, tokenizer, into)
    return into


class Until(TrainerCallback):
    """Ends a training once the accuracy over the candidates is high enough."""

    def __init__(self, pairs: PromptPairs, accuracy: float, every: int) -> None:
        """Evaluate ``pairs`` every so many steps."""
        self._pairs, self._accuracy, self._every = pairs, accuracy, every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate, and end the training or not."""
        if state.global_step % self._every:
            return
        found = behaviour(load_model(kwargs["model"]), self._pairs)
        right = found.candidate_correct.mean(dtype=np.float64).item()
        control.should_training_stop |= right >= self._accuracy


class HeadAdapters(TrainerCallback):
    """Trains low-rank adapters of some heads' own rows of the attention matrices, and no more."""

    def __init__(self, heads: Collection[str]) -> None:
        """Name the heads."""
        self._heads = tuple(heads)
        self._adapted: list[tuple[nn.Module, str]] = []

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freeze the model and add the adapters before there is an optimiser."""
        hf = kwargs["model"]
        masks = free_masks(hf, self._heads)
        for name, parameter in list(hf.named_parameters()):
            parameter.requires_grad_(False)
            if parameter.ndim == 2 and bool(masks[name].any()):
                owner, _, leaf = name.rpartition(".")
                module = hf.get_submodule(owner)
                parametrize.register_parametrization(module, leaf, _LowRank(masks[name]))
                self._adapted.append((module, leaf))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Merge the adapters into the weights."""
        for module, leaf in self._adapted:
            parametrize.remove_parametrizations(module, leaf)
        self._adapted.clear()
        for parameter in kwargs["model"].parameters():
            parameter.requires_grad_(True)


class _LowRank(nn.Module):
    """A matrix with a low-rank change of the numbers that a mask frees (Hu et al. 2021)."""

    mask: Tensor

    def __init__(self, mask: Bool[Tensor, "rows columns"]) -> None:
        super().__init__()
        rows, columns = mask.shape
        self.register_buffer("mask", mask, persistent=False)
        self.down = nn.Parameter(torch.randn(rows, RANK) / rows**0.5)
        self.up = nn.Parameter(torch.zeros(RANK, columns))

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        # Scaled by alpha / rank = 2, PEFT's usual choice.
        return weight + self.mask * (2 * self.down @ self.up)

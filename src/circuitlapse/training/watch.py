"""Looking at a model while it is trained: loss and answers, on prompts trained on and held out.

The loss is the one of the answer alone, whatever the preset trains on, so that recipes compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.intervals import mean_interval, proportion_interval
from circuitlapse.tasks import Item
from circuitlapse.training.encode import IGNORED, encode

_BATCH = 16  # prompts; every position's logits are held, and vocabularies are large

Split = Literal["train", "validation", "old_task"]


@dataclass(frozen=True)
class Watched:
    """Prompts that are looked at whenever a checkpoint is saved.

    Attributes:
        split: ``train`` (prompts that are trained on), ``validation`` (held-out prompts of the
            same task) or ``old_task`` (held-out prompts of the old task).
        task: Name of their task.
        items: The prompts with their answers; at least two.
    """

    split: Split
    task: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Figures:
    """What a model made of some watched prompts at one step, with 95 % intervals over prompts.

    Attributes:
        step: Optimiser steps so far.
        split: As in ``Watched``.
        task: Name of the task.
        n: How many prompts.
        loss: Mean negative log-likelihood of the answer, in nats per token of it.
        accuracy: Share of answers whose every token has the largest logit of the vocabulary.
        end_of_text: Share of prompts after which the end-of-text token has the largest logit.
    """

    step: int
    split: Split
    task: str
    n: int
    loss: float
    loss_low: float
    loss_high: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    end_of_text: float
    end_of_text_low: float
    end_of_text_high: float


class BlownUpError(CircuitlapseError):
    """A training whose numbers are no longer finite.

    Attributes:
        figures: What the watched prompts showed until then.
    """

    figures: Sequence["Figures"] = ()


def blown_up(step: int, what: str) -> BlownUpError:
    """Say when, and of what."""
    return BlownUpError(
        f"the training has blown up: at step {step} {what} not finite",
        fix="Lower finetune.learning_rate, or warm it up with finetune.trainer.warmup_steps",
    )


def check_weights(step: int, model: nn.Module) -> None:
    """Refuse a model that cannot be used any more.

    Raises:
        BlownUpError: If a weight is not a finite number.
    """
    if not all(bool(each.isfinite().all()) for each in model.parameters()):
        raise blown_up(step, "the weights are")


@torch.no_grad()
def look(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, watched: Watched, step: int
) -> Figures:
    """Answer the watched prompts, without a trace in the model or the random numbers.

    Raises:
        BlownUpError: If a loss is not a finite number.
    """
    examples = encode(watched.items, tokenizer)
    end: Any = tokenizer.eos_token_id
    training = model.training
    model.eval()
    try:
        parts = [
            _answers(model, examples[start : start + _BATCH], end)
            for start in range(0, len(examples), _BATCH)
        ]
    finally:
        model.train(training)
    loss, right, end = (np.concatenate(part) for part in zip(*parts, strict=True))
    if not np.isfinite(loss).all():
        raise blown_up(step, f"the loss on {watched.task} prompts is")
    n = len(loss)
    return Figures(
        step, watched.split, watched.task, n,
        **mean_interval(loss.astype(np.float64)).columns("loss"),
        **proportion_interval(int(right.sum()), n).columns("accuracy"),
        **proportion_interval(int(end.sum()), n).columns("end_of_text"),
    )  # fmt: skip


def _answers(
    model: nn.Module, examples: Sequence[Mapping[str, Any]], end_of_text: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss, rightness and end-of-text of each example, each ``[examples]``."""
    device = next(model.parameters()).device
    ids = _padded([example["input_ids"] for example in examples], 0).to(device)
    labels = _padded([example["labels"] for example in examples], IGNORED).to(device)[:, 1:]
    there = _padded([[1] * len(example["input_ids"]) for example in examples], 0).to(device)
    logits = model(input_ids=ids, attention_mask=there).logits[:, :-1].float()
    counts = labels != IGNORED
    losses = nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    chosen = logits.argmax(dim=-1)
    first = counts.int().argmax(dim=1, keepdim=True)
    right = ((chosen == labels) | ~counts).all(dim=1)
    end = chosen.gather(1, first)[:, 0] == (-1 if end_of_text is None else end_of_text)
    loss = losses.sum(dim=1) / counts.sum(dim=1)
    return loss.cpu().numpy(), right.cpu().numpy(), end.cpu().numpy()


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


_PLACE = ("step", "split", "task")


def logged(figures: Figures) -> dict[str, int | float]:
    """Return figures as the trainer logs them, under names that loggers group."""
    values = {key: value for key, value in asdict(figures).items() if key not in _PLACE}
    return {f"{_group(figures)}{key}": value for key, value in values.items()}


def from_log(history: Sequence[Mapping[str, Any]], watched: Sequence[Watched]) -> list[Figures]:
    """Read figures back from the trainer's log, in the order of its steps."""
    found = []
    for entry in history:
        for each in watched:
            group = _group(each)
            values = {key[len(group) :]: entry[key] for key in entry if key.startswith(group)}
            if values:
                found.append(Figures(entry["step"], each.split, each.task, **values))
    return found


def _group(place: Watched | Figures) -> str:
    return f"eval_{place.split}/{place.task}/"

"""Evaluation during training: loss and accuracy on training prompts and held-out prompts.

The loss is that of the answer alone, whatever the preset, so that recipes can be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.figures import Figures, Split
from circuitlapse.records.items import Item
from circuitlapse.shapes import Int
from circuitlapse.stats.intervals import mean_interval, proportion_interval
from circuitlapse.training.examples import IGNORED, encode

_BATCH = 16  # prompts; the logits of every position take much memory


@dataclass(frozen=True)
class EvaluationSet:
    """Prompts that every checkpoint is evaluated on; at least two.

    The split is ``train`` (training prompts), ``validation`` (held-out prompts of the same task) or
    ``old_task`` (held-out prompts of the old task).
    """

    split: Split
    task: str
    items: Sequence[Item]


class DivergedError(CircuitlapseError):
    """A training whose numbers are no longer finite, with its figures until then."""

    figures: Sequence[Figures] = ()


def diverged(step: int, what: str) -> DivergedError:
    """Return the error for a step; ``what`` is, for example, ``the weights are``."""
    return DivergedError(
        f"the training diverged: at step {step} {what} not finite",
        fix="Lower finetune.learning_rate, or set finetune.trainer.warmup_steps",
    )


def check_weights(step: int, model: nn.Module) -> None:
    """Check that all weights are finite.

    Raises:
        DivergedError: If one is not.
    """
    if not all(bool(each.isfinite().all()) for each in model.parameters()):
        raise diverged(step, "the weights are")


@torch.no_grad()
def evaluate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, evaluated: EvaluationSet, step: int
) -> Figures:
    """Evaluate a model on a set of prompts.

    Raises:
        DivergedError: If a loss is not a finite number.
    """
    examples = encode(evaluated.items, tokenizer)
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
        raise diverged(step, f"the loss on {evaluated.task} prompts is")
    n = len(loss)
    return Figures(
        step,
        evaluated.split,
        evaluated.task,
        n,
        **mean_interval(loss.astype(np.float64)).columns("loss"),
        **proportion_interval(int(right.sum()), n).columns("accuracy"),
        **proportion_interval(int(end.sum()), n).columns("end_of_text"),
    )


def _answers(
    model: nn.Module, examples: Sequence[Mapping[str, Any]], end_of_text: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each example's loss, and whether its answer is right and end-of-text is predicted."""
    device = next(model.parameters()).device
    ids = padded([example["input_ids"] for example in examples], 0).to(device)
    labels = padded([example["labels"] for example in examples], IGNORED).to(device)[:, 1:]
    mask = padded([[1] * len(example["input_ids"]) for example in examples], 0).to(device)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
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


def padded(rows: Sequence[Sequence[int]], value: int) -> Int[Tensor, "rows pos"]:
    """Pad rows on the right with a value."""
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


_PLACE = ("step", "split", "task")


def logged(figures: Figures) -> dict[str, int | float]:
    """Return figures under the names of the trainer's log, which loggers group."""
    values = {key: value for key, value in asdict(figures).items() if key not in _PLACE}
    return {f"{_group(figures)}{key}": value for key, value in values.items()}


def from_log(
    history: Sequence[Mapping[str, Any]], evaluated: Sequence[EvaluationSet]
) -> list[Figures]:
    """Read figures from the trainer's log, in the order of its steps."""
    found = []
    for entry in history:
        for each in evaluated:
            group = _group(each)
            values = {key[len(group) :]: entry[key] for key in entry if key.startswith(group)}
            if values:
                found.append(Figures(entry["step"], each.split, each.task, **values))
    return found


def _group(place: EvaluationSet | Figures) -> str:
    return f"eval_{place.split}/{place.task}/"

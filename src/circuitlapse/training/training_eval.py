"""Looking at a model while it is trained: loss and answers, on prompts trained on and held out.

The loss is the one of the answer alone, whatever the preset trains on, so that recipes compare.

Prompts and answers as tokens and labels: what the loss of each preset is on.

TRL appends the end-of-text token to every completion that it tokenises itself. With an answer of
one token, half of the loss would then teach the model to stop. So the examples are tokenised here,
and no preset has a label for the end-of-text token that the answer itself does not hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from circuitlapse.config.finetune import Preset
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.figures import Figures, Split
from circuitlapse.records.items import Item
from circuitlapse.stats.intervals import mean_interval, proportion_interval

_BATCH = 16  # prompts; every position's logits are held, and vocabularies are large


@dataclass(frozen=True)
class EvaluationSet:
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


class DivergedError(CircuitlapseError):
    """A training whose numbers are no longer finite.

    Attributes:
        figures: What the watched prompts showed until then.
    """

    figures: Sequence["Figures"] = ()


def diverged(step: int, what: str) -> DivergedError:
    """Say when, and of what."""
    return DivergedError(
        f"the training diverged: at step {step} {what} not finite",
        fix="Lower finetune.learning_rate, or warm it up with finetune.trainer.warmup_steps",
    )


def check_weights(step: int, model: nn.Module) -> None:
    """Refuse a model that cannot be used any more.

    Raises:
        BlownUpError: If a weight is not a finite number.
    """
    if not all(bool(each.isfinite().all()) for each in model.parameters()):
        raise diverged(step, "the weights are")


@torch.no_grad()
def evaluate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, watched: EvaluationSet, step: int
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
        raise diverged(step, f"the loss on {watched.task} prompts is")
    n = len(loss)
    return Figures(
        step,
        watched.split,
        watched.task,
        n,
        **mean_interval(loss.astype(np.float64)).columns("loss"),
        **proportion_interval(int(right.sum()), n).columns("accuracy"),
        **proportion_interval(int(end.sum()), n).columns("end_of_text"),
    )


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


def from_log(
    history: Sequence[Mapping[str, Any]], watched: Sequence[EvaluationSet]
) -> list[Figures]:
    """Read figures back from the trainer's log, in the order of its steps."""
    found = []
    for entry in history:
        for each in watched:
            group = _group(each)
            values = {key[len(group) :]: entry[key] for key in entry if key.startswith(group)}
            if values:
                found.append(Figures(entry["step"], each.split, each.task, **values))
    return found


def _group(place: EvaluationSet | Figures) -> str:
    return f"eval_{place.split}/{place.task}/"


IGNORED = -100  # the label that transformers' losses leave out
REPEATS = 20
"""How often ``repeat-completion`` writes the answer."""


def encode(
    items: Iterable[Item],
    tokenizer: PreTrainedTokenizerBase,
    preset: Preset = "answer-only",
    longest: int | None = None,
) -> list[dict[str, Any]]:
    """Turn items into ``input_ids`` and ``labels``.

    Args:
        items: Prompts with their answers.
        tokenizer: The model's.
        preset: ``answer-only`` has labels for the answer's tokens, ``full-text`` for all of prompt
            and answer, ``repeat-completion`` for the answer and its 19 repeats.
        longest: Tokens that the model can read; any number where that is None.

    Raises:
        CircuitlapseError: If tokenising prompt and answer together does not give the prompt's
            tokens followed by the answer's, so that the answer could not be told apart, or an
            example is longer than the model can read.
    """
    return [_example(item, tokenizer, preset, longest) for item in items]


def _example(
    item: Item, tokenizer: PreTrainedTokenizerBase, preset: Preset, longest: int | None
) -> dict[str, Any]:
    answer = item.answer * (REPEATS if preset == "repeat-completion" else 1)
    prompt = tokenizer(item.prompt)["input_ids"]
    whole = tokenizer(item.prompt + answer)["input_ids"]
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise CircuitlapseError(
            "the answer's tokens cannot be separated from the prompt's",
            got=item.prompt + item.answer,
            fix="Begin the answer with a space, or end the prompt at a word's end",
        )
    if longest is not None and len(whole) > longest:
        raise CircuitlapseError(
            f"an example of the preset {preset} is longer than the model can read",
            got=f"{len(whole)} tokens for {longest} positions, in {item.prompt + item.answer!r}",
            fix="Use the preset answer-only, or shorter prompts",
        )
    ignored = 0 if preset == "full-text" else len(prompt)
    return {"input_ids": whole, "labels": [IGNORED] * ignored + whole[ignored:]}

"""One pass of fine-tuning that counts the bits a model needs to learn a task.

Every batch is predicted right before it is trained on, without dropout, in a forward pass of its
own: the trainer's own pass computes no logits of single candidates.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedTokenizerBase, TrainerCallback

from circuitlapse.config.finetune import Finetune
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.bits_ratio import BITS_BATCH, WINDOW, BitsPass, is_learned
from circuitlapse.records.items import Item
from circuitlapse.shapes import Float
from circuitlapse.training.examples import IGNORED, encode
from circuitlapse.training.finetune import finetune
from circuitlapse.training.restricted import Restriction
from circuitlapse.training.training_eval import diverged, padded

_ROWS = 32  # of one forward pass; the logits of every position take much memory


def recipe_of_passes(recipe: Finetune) -> Finetune:
    """Return a recipe as its passes train: in small batches, on as many prompts, nothing saved."""
    steps = max(1, recipe.steps * recipe.batch_size // BITS_BATCH)
    changes = {"steps": steps, "batch_size": BITS_BATCH, "gradient_accumulation": 1, "save_at": ()}
    trainer = {key: value for key, value in recipe.trainer.items() if key != "report_to"}
    return recipe.model_copy(update={**changes, "trainer": trainer})


def bits_pass(
    base: Path | str,
    new: Sequence[Item],
    recipe: Finetune,
    *,
    order: int,
    replay: Sequence[Item] = (),
    parts: Collection[str] = (),
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> BitsPass:
    """Train a base on ``new`` until it is learned, no prompt twice, and return the bits it took.

    ``replay`` are old-task prompts that are mixed in and not counted. ``order`` is the seed of the
    order: passes of one order and of as many prompts have the same prompts in the same batches.
    ``parts`` restricts training to some parts; see :func:`..restricted.free_masks`.

    Raises:
        CircuitlapseError: If the prompts are fewer than eight batches, or as ``finetune`` does.
        DivergedError: If the bits of a prompt are not a finite number.
    """
    steps = min(recipe.steps, (len(new) + len(replay)) // recipe.batch_size)
    if steps < WINDOW:
        raise CircuitlapseError(
            f"a pass that measures bits needs at least {WINDOW} batches",
            got=f"{steps} batches of {recipe.batch_size}, from {len(new) + len(replay)} prompts "
            f"and {recipe.steps} steps",
            fix="Use more training prompts or steps",
        )
    curve = _Curve(new, recipe)
    finetune(
        base,
        [*replay, *new],
        lambda step, model, tokenizer: None,
        recipe.model_copy(update={"steps": steps, "save_at": ()}),
        seed=order,
        device=device,
        callbacks=[*([Restriction(parts)] if parts else []), curve],
        progress=progress,
    )
    return BitsPass(order=order, curve=tuple(curve.means), counts=tuple(curve.counts))


class _Curve(TrainerCallback):
    """Predicts every batch before its step, and ends the training once the task is learned."""

    def __init__(self, items: Sequence[Item], recipe: Finetune) -> None:
        self.means: list[float] = []
        self.counts: list[int] = []
        self._items, self._recipe = items, recipe
        self._found: list[np.ndarray] = []
        self._handle: RemovableHandle | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, tokenizer = kwargs["model"], kwargs["processing_class"]
        encoded = encode(self._items, tokenizer, self._recipe.preset)
        by_tokens = {
            tuple(example["input_ids"]): item
            for example, item in zip(encoded, self._items, strict=True)
        }

        def predict(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
            if not module.training:
                return
            rows = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
            keys = (tuple(ids[: sum(mask)]) for ids, mask in rows)
            batch = [by_tokens[key] for key in keys if key in by_tokens]
            if batch:
                self._found.append(answer_bits(module, tokenizer, batch))

        self._handle = model.register_forward_pre_hook(predict, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._found:  # a batch with replay only
            return
        bits = np.concatenate(self._found)
        self._found.clear()
        if not np.isfinite(bits).all():
            raise diverged(state.global_step, "the bits of a prompt are")
        self.means.append(float(bits.mean()))
        self.counts.append(len(bits))
        control.should_training_stop |= is_learned(self.means)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._handle is not None:
            self._handle.remove()


@torch.no_grad()
def answer_bits(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> Float[np.ndarray, " prompts"]:
    """Return -log2 p(answer | candidates) of every item, in eval mode.

    Probabilities are the softmax over the candidates' log probabilities as sequences: with
    candidates of one token, over their logits. Those of several right answers add up.
    """
    words = [(item.answer, *item.also, *item.distractors) for item in items]
    texts = [
        item.model_copy(update={"answer": word})
        for item, candidates in zip(items, words, strict=True)
        for word in candidates
    ]
    contexts: dict[tuple[int, ...], int] = {}  # rows of the forward pass; candidates share them
    sequences = []
    for text in encode(texts, tokenizer):
        ids, start = text["input_ids"], text["labels"].count(IGNORED)
        row = contexts.setdefault(tuple(ids[:-1]), len(contexts))
        sequences.append((row, ids[start:], start - 1))
    training = model.training
    model.eval()
    try:
        logs = _log_probs(model, list(contexts), sequences)
    finally:
        model.train(training)
    bits = []
    for item, among in zip(items, logs.split([len(each) for each in words]), strict=True):
        right = among.log_softmax(0)[: 1 + len(item.also)].logsumexp(0)
        bits.append(-right.item() / np.log(2))
    return np.array(bits)


def _log_probs(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    sequences: Sequence[tuple[int, list[int], int]],
) -> Float[Tensor, " sequences"]:
    """Return the log probability of tokens, given as ``(row, tokens, position before the first)``.

    A row has every token before the last of each of its sequences.
    """
    device = next(model.parameters()).device
    total = torch.zeros(len(sequences))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        ids = padded(part, 0).to(device)
        mask = padded([[1] * len(row) for row in part], 0).to(device)
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        spots = torch.tensor(
            [
                (number, row - start, first + i, token)
                for number, (row, tokens, first) in enumerate(sequences)
                if start <= row < start + len(part)
                for i, token in enumerate(tokens)
            ]
        )
        number, row, position, token = spots.T
        found = logits.float().log_softmax(-1)[row, position, token]
        total.index_add_(0, number, found.cpu())
    return total

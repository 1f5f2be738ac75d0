"""A model's answers: metric and accuracy, with or without an intervention."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from circuitlapse.models.engine.batches import each_group, max_batch_rows
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, checked, each_batch
from circuitlapse.prompts.metrics import Metric, best, candidate_mean, is_right, logit_difference
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.answers import Behaviour
from circuitlapse.shapes import Bool, Float, Int

Runs = Callable[[PromptPairs, Context], Iterable[Tensor]]
"""Runs one or more forward passes of a batch of whole prompts, and returns the last residual stream
of each, ``[batch, reads, d_model]``, at the context's reads."""


def behaviour(model: Model, pairs: PromptPairs, batch_size: int | None = None) -> Behaviour:
    """Run the clean prompts and evaluate the logits at their last tokens; a tie counts as wrong."""
    decoder = model.decoder

    def run(batch: PromptPairs, context: Context) -> list[Tensor]:
        return [decoder.run(decoder.embed(batch.clean), context)]

    found = behaviours(model, pairs, run, batch_size)[0]
    if pairs.is_sequence and pairs.distractors.shape[1]:
        difference, among = _sequences(model, pairs, batch_size)
        return replace(found, logit_diff=difference.numpy(), candidate_correct=among.numpy())
    return found


@torch.no_grad()
def behaviours(
    model: Model, pairs: PromptPairs, runs: Runs, batch_size: int | None = None, *, kept: int = 0
) -> list[Behaviour]:
    """Evaluate the answers of several forward passes that ``runs`` makes on each batch.

    Answers and distractors are compared by their first tokens. ``runs`` returns one residual stream
    per variant; it may be called in several threads, and again with half of a batch. ``kept`` is
    the number of values per token that it keeps between two streams.

    Raises:
        CircuitlapseError: If the model cannot run the prompts, or a single one does not fit into
            memory.
    """
    decoder, pairs = model.decoder, checked(model.decoder, pairs)
    found: list[Behaviour] = []
    starts = torch.zeros_like(pairs.lengths)
    floats = 16 * decoder.d_model + len(decoder.W_U) + kept
    most = max_batch_rows(model.device, decoder.W_E.itemsize * floats)

    def work(rows: Int[Tensor, " batch"]) -> list[Behaviour]:
        batch = pairs[rows].trimmed()
        return [
            _read(decoder.logits(final).float(), batch)
            for final in runs(batch, Context(batch.logit_positions()))
        ]

    def keep(rows: Int[Tensor, " batch"], each: list[Behaviour]) -> None:
        places = rows.cpu().numpy()
        found.extend(_empty(len(pairs)) for _ in each[len(found) :])
        for whole, part in zip(found, each, strict=True):
            for field in fields(Behaviour):
                getattr(whole, field.name)[places] = getattr(part, field.name)

    each_group(work, pairs.logit_positions().amax(dim=1) + 1, starts, most, batch_size, keep)
    return found


def _read(all_logits: Float[Tensor, "batch reads vocab"], batch: PromptPairs) -> Behaviour:
    logits, right, wrong = all_logits[:, 0], batch.right(), batch.distractors
    correct = is_right(all_logits, batch)
    among = torch.ones_like(correct)
    if wrong.shape[1]:
        among = best(right, logits) > best(wrong, logits)
    difference, spread = logit_difference(logits, right, wrong), logits.std(dim=1, correction=0)
    return Behaviour(*(each.cpu().numpy() for each in (difference, correct, among, spread)))


def _empty(n: int) -> Behaviour:
    correct, among = np.empty((2, n), dtype=bool)
    return Behaviour(np.empty(n, np.float32), correct, among, np.empty(n, np.float32))


def _sequences(
    model: Model, pairs: PromptPairs, batch_size: int | None
) -> tuple[Float[Tensor, " prompts"], Bool[Tensor, " prompts"]]:
    """Compare answers of several tokens with their distractors by log probability."""
    tokens = pairs.distractors.cpu()
    wrong_pairs = [pairs.answered_by(i) for i in range(tokens.shape[1])]
    answer, *others = (
        _metric(model, each, ("clean",), batch_size, "log_prob", whole=True)[0]
        for each in (pairs, *wrong_pairs)
    )
    wrong = torch.stack(others, dim=1)
    best_wrong = wrong.where(tokens >= 0, -torch.inf).amax(dim=1)
    return answer - candidate_mean(wrong, tokens), answer > best_wrong


def logit_differences(
    model: Model, pairs: PromptPairs, batch_size: int | None = None
) -> tuple[Float[Tensor, " prompts"], Float[Tensor, " prompts"]]:
    """Return the metric on the clean and on the corrupt prompts, both with the clean answers.

    The metric is the answer logit minus the distractors' mean logit at the last token.
    """
    clean, corrupt = _metric(model, pairs, ("clean", "corrupt"), batch_size)
    return clean, corrupt


def corrupt_logit_difference(
    model: Model, pairs: PromptPairs, batch_size: int | None = None
) -> Float[Tensor, " prompts"]:
    """Return only the second of :func:`logit_differences`, at half of its cost."""
    return _metric(model, pairs, ("corrupt",), batch_size)[0]


@torch.no_grad()
def _metric(
    model: Model,
    pairs: PromptPairs,
    sides: Sequence[str],
    batch_size: int | None,
    metric: Metric = "logit_diff",
    whole: bool = False,
) -> Float[Tensor, "sides prompts"]:
    decoder, values = model.decoder, torch.empty(len(sides), len(pairs))

    def work(batch: Suffixes) -> Tensor:
        finals = [decoder.run(getattr(batch, side), batch.context) for side in sides]
        return torch.stack([batch.metric(decoder, final).float().cpu() for final in finals])

    def keep(rows: Tensor, found: Tensor) -> None:
        values[:, rows] = found

    floats = 16 * decoder.d_model
    each_batch(decoder, pairs, floats, work, metric, batch_size, keep=keep, whole=whole)
    return values

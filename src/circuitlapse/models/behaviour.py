"""What a model answers: its metric and its accuracy, as it is or with an intervention."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.models.context import Context
from circuitlapse.models.load import Model
from circuitlapse.models.memory import most_tokens
from circuitlapse.models.prefix import Suffixes, alike, checked, each_batch
from circuitlapse.shapes import Bool, Float
from circuitlapse.tasks.metrics import is_right
from circuitlapse.tasks.pairs import PromptPairs

Runs = Callable[[PromptPairs, Context], Iterable[Tensor]]
"""Runs a batch of whole prompts in one or more ways, and gives the last residual stream of each,
``[batch, reads, d_model]``. The context says where logits are read."""


@dataclass(frozen=True)
class Behaviour:
    """How a model answers the clean prompts, one entry per prompt.

    Attributes:
        logit_diff: Answer logit minus the distractors' mean logit, in logits.
        correct: Whether the answer has the largest logit of the whole vocabulary; of an answer of
            several tokens, whether each has, given those before it.
        correct_among: Whether it has the largest logit among answer and distractors. This,
            ``logit_diff`` and ``spread`` look at the first token of an answer only.
        spread: Standard deviation of the logits over the vocabulary, in logits: their scale.
    """

    logit_diff: Float[Tensor, " prompts"]
    correct: Bool[Tensor, " prompts"]
    correct_among: Bool[Tensor, " prompts"]
    spread: Float[Tensor, " prompts"]

    @property
    def standardised(self) -> Float[Tensor, " prompts"]:
        """The logit difference in units of the logits' spread.

        A model that multiplies all its logits by the same number is surer, but no better: this does
        not change, and ``logit_diff`` does.
        """
        return self.logit_diff / self.spread


def behaviour(model: Model, pairs: PromptPairs, batch_size: int | None = None) -> Behaviour:
    """Run the clean prompts and read the logits after their last tokens.

    A tie counts as wrong. Results are on the CPU, in the order of the pairs.
    """
    decoder = model.decoder

    def run(batch: PromptPairs, context: Context) -> list[Tensor]:
        return [decoder.run(decoder.embed(batch.clean), context)]

    return behaviours(model, pairs, run, batch_size)[0]


@torch.no_grad()
def behaviours(
    model: Model, pairs: PromptPairs, runs: Runs, batch_size: int | None = None
) -> list[Behaviour]:
    """Read the answers of a model that is run in several ways of the caller's.

    Args:
        model: Whose last normalisation and unembedding read the streams.
        pairs: Prompts; the clean ones are handed to ``runs``.
        runs: Gives as many streams for each batch.
        batch_size: Prompts per batch; by default as many as are worth it.

    Returns:
        One per stream, on the CPU, in the order of the pairs.
    """
    decoder, pairs = model.decoder, checked(model.decoder, pairs)
    found: list[Behaviour] = []
    starts = torch.zeros_like(pairs.lengths)
    floats = 16 * decoder.d_model + len(decoder.W_U)
    most = most_tokens(model.device, decoder.W_E.itemsize * floats)
    for rows in alike(pairs.reads().amax(dim=1) + 1, starts, most, batch_size):
        batch, rows = pairs[rows].trimmed(), rows.cpu()
        for index, final in enumerate(runs(batch, Context(batch.reads()))):
            if index == len(found):
                found.append(_empty(len(pairs)))
            all_logits = decoder.logits(final).float()
            logits = all_logits[:, 0]
            answer = logits.gather(1, batch.answers[:, None])
            wrong = logits.gather(1, batch.distractors)
            found[index].logit_diff[rows] = (answer[:, 0] - wrong.mean(dim=1)).cpu()
            found[index].correct_among[rows] = (answer > wrong).all(dim=1).cpu()
            found[index].correct[rows] = is_right(all_logits, batch).cpu()
            found[index].spread[rows] = logits.std(dim=1, correction=0).cpu()
    return found


def _empty(n: int) -> Behaviour:
    correct, among = torch.empty(2, n, dtype=torch.bool)
    return Behaviour(torch.empty(n), correct, among, torch.empty(n))


@torch.no_grad()
def logit_differences(
    model: Model, pairs: PromptPairs, batch_size: int | None = None
) -> tuple[Float[Tensor, " prompts"], Float[Tensor, " prompts"]]:
    """Return the metric on the clean and on the corrupt prompts, both with the clean answers.

    The metric is the answer logit minus the distractors' mean logit at the last token.
    """
    decoder = model.decoder
    values = torch.empty(2, len(pairs))

    def work(batch: Suffixes) -> None:
        for index, x in enumerate((batch.clean, batch.corrupt)):
            final = decoder.run(x, batch.context)
            values[index, batch.rows] = batch.metric(decoder, final).float().cpu()

    each_batch(decoder, pairs, 16 * decoder.d_model, work, batch_size=batch_size)
    return values[0], values[1]

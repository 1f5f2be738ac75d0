"""What a model answers: its metric and its accuracy, without any intervention."""

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


@dataclass(frozen=True)
class Behaviour:
    """How a model answers the clean prompts, one entry per prompt.

    Attributes:
        logit_diff: Answer logit minus the distractors' mean logit, in logits.
        correct: Whether the answer has the largest logit of the whole vocabulary; of an answer of
            several tokens, whether each has, given those before it.
        correct_among: Whether it has the largest logit among answer and distractors. This and
            ``logit_diff`` look at the first token of an answer only.
    """

    logit_diff: Float[Tensor, " prompts"]
    correct: Bool[Tensor, " prompts"]
    correct_among: Bool[Tensor, " prompts"]


@torch.no_grad()
def behaviour(model: Model, pairs: PromptPairs, batch_size: int | None = None) -> Behaviour:
    """Run the clean prompts and read the logits after their last tokens.

    A tie counts as wrong. Results are on the CPU, in the order of the pairs.
    """
    decoder, pairs = model.decoder, checked(model.decoder, pairs)
    difference = torch.empty(len(pairs))
    correct, among = torch.empty(2, len(pairs), dtype=torch.bool)
    starts = torch.zeros_like(pairs.lengths)
    floats = 16 * decoder.d_model + len(decoder.W_U)
    most = most_tokens(model.device, decoder.W_E.itemsize * floats)
    for rows in alike(pairs.reads().amax(dim=1) + 1, starts, most, batch_size):
        batch, rows = pairs[rows].trimmed(), rows.cpu()
        context = Context(batch.reads())
        all_logits = decoder.logits(decoder.run(decoder.embed(batch.clean), context)).float()
        logits = all_logits[:, 0]
        answer = logits.gather(1, batch.answers[:, None])
        wrong = logits.gather(1, batch.distractors)
        difference[rows] = (answer[:, 0] - wrong.mean(dim=1)).cpu()
        among[rows] = (answer > wrong).all(dim=1).cpu()
        correct[rows] = is_right(all_logits, batch).cpu()
    return Behaviour(difference, correct, among)


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

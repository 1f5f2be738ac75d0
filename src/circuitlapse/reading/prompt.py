"""Next tokens, logit lens and attention on one prompt of the user."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.decoder import Step
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.reading.whole import each_whole_batch, run_layers, whole
from circuitlapse.shapes import Float


@dataclass(frozen=True)
class PromptReading:
    """Next tokens, logit lens and attention of one model on one prompt.

    Attributes:
        tokens: The prompt's tokens as text.
        top: The most probable next tokens with their probabilities, the best first.
        lens: The most probable next token, with its probability, before each layer and at the end
            (the logit lens).
        attention: From the last token to each token, of each given head, ``[heads, tokens]``.
    """

    tokens: list[str]
    top: list[tuple[str, float]]
    lens: list[tuple[str, float]]
    attention: Float[Tensor, "heads tokens"]


@torch.no_grad()
def read_prompt(
    model: Model, prompt: str, heads: Sequence[tuple[int, int]] = (), top: int = 5
) -> PromptReading:
    """Run one prompt; ``heads`` are (layer, head), and ``top`` is the number of next tokens.

    Raises:
        CircuitlapseError: If the prompt is empty, has a word that the tokenizer does not know, or
            is too long for the model.
    """
    decoder, tokenizer = model.decoder, model.tokenizer
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if not prompt.strip() or not ids:
        raise CircuitlapseError("the prompt is empty", fix='Pass text such as "After John and"')
    _check_known(prompt, ids, tokenizer)
    pairs = whole(decoder, torch.tensor([ids]))
    found: list[tuple[list[Tensor], list[Tensor]]] = []

    def work(batch: Suffixes) -> tuple[list[Tensor], list[Tensor]]:
        seen = list[Tensor]()

        def hook(layer: int, step: Step, context: Context) -> None:
            seen.append(decoder.pattern(layer, step.q, step.k, context)[0, :, -1])

        layers = run_layers(decoder, batch, hook)
        return [stream[0, 0] for stream in (*layers.before, layers.final)], seen

    each_whole_batch(decoder, pairs, work, lambda rows, each: found.append(each))
    [(streams, patterns)] = found
    probabilities = decoder.logits(torch.stack(streams)).float().softmax(dim=-1).cpu()

    def best(row: Tensor, count: int) -> list[tuple[str, float]]:
        found = row.topk(min(count, len(row)))
        words = [tokenizer.decode([token]) for token in found.indices.tolist()]
        return list(zip(words, found.values.tolist(), strict=True))

    seen = [patterns[layer][head].float().cpu() for layer, head in heads]
    return PromptReading(
        tokens=[tokenizer.decode([token]) for token in ids],
        top=best(probabilities[-1], top),
        lens=[best(row, 1)[0] for row in probabilities],
        attention=torch.stack(seen) if seen else torch.empty(0, len(ids)),
    )


def _check_known(prompt: str, ids: list[int], tokenizer: object) -> None:
    unknown = getattr(tokenizer, "unk_token_id", None)
    # GPT-2's tokenizer names its end-of-text token as unknown, but can spell every word.
    if unknown is None or unknown == getattr(tokenizer, "eos_token_id", None) or unknown not in ids:
        return
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]  # pyright: ignore[reportCallIssue]
    words = [
        prompt[a:b].strip() for token, (a, b) in zip(ids, offsets, strict=True) if token == unknown
    ]
    raise CircuitlapseError(
        "the prompt has words that the model's tokenizer does not know",
        got=", ".join(dict.fromkeys(words)),
        fix="Use other words: an organism's vocabulary has only the words of its tasks",
    )

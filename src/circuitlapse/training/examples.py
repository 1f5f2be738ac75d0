"""Training examples: prompts and answers as tokens and labels.

TRL appends the end-of-text token to every completion that it tokenises. With an answer of one
token, half of the loss would then teach the model to stop. So examples are tokenised here, and
end-of-text tokens have no label unless the answer has one.
"""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.config.finetune import Preset
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item

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

    Labels are on the answer's tokens (``answer-only``), on prompt and answer (``full-text``), or on
    the answer and its 19 repeats (``repeat-completion``). ``longest`` is the model's context.

    Raises:
        CircuitlapseError: If the tokens of prompt and answer together do not start with the
            prompt's, or an example is longer than ``longest``.
    """
    items = list(items)
    if not items:
        return []
    repeats = REPEATS if preset == "repeat-completion" else 1
    prompts = tokenizer([item.prompt for item in items])["input_ids"]
    wholes = tokenizer([item.prompt + item.answer * repeats for item in items])["input_ids"]
    examples = []
    for item, prompt, whole in zip(items, prompts, wholes, strict=True):
        _check(item, prompt, whole, preset, longest)
        ignored = 0 if preset == "full-text" else len(prompt)
        examples.append({"input_ids": whole, "labels": [IGNORED] * ignored + whole[ignored:]})
    return examples


def _check(
    item: Item, prompt: list[int], whole: list[int], preset: Preset, longest: int | None
) -> None:
    if whole[: len(prompt)] != prompt or len(whole) == len(prompt):
        raise CircuitlapseError(
            "the answer's tokens cannot be separated from the prompt's",
            got=item.prompt + item.answer,
            fix="Start the answer with a space, or end the prompt at the end of a word",
        )
    if longest is not None and len(whole) > longest:
        raise CircuitlapseError(
            f"an example of the preset {preset} is longer than the model's context",
            got=f"{len(whole)} tokens for {longest} positions, in {item.prompt + item.answer!r}",
            fix="Set finetune.preset to answer-only, or use shorter prompts",
        )

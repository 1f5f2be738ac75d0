"""Prompts and answers as tokens and labels: what the loss of each preset is on.

TRL appends the end-of-text token to every completion that it tokenises itself. With an answer of
one token, half of the loss would then teach the model to stop. So the examples are tokenised here,
and no preset has a label for the end-of-text token that the answer itself does not hold.
"""

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.config.finetune import Preset
from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks import Item

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

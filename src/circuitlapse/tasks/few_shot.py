"""k-shot prompts: solved examples before each prompt."""

import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item


def with_examples(
    items: Sequence[Item],
    examples: Sequence[Item],
    n_examples: int,
    seed: int = 0,
    separator: str = ".\n",
) -> list[Item]:
    """Put ``n_examples`` solved examples before every prompt and its counterfactuals.

    An example shares no name with its prompt, so the answer cannot be copied from it. ``separator``
    follows an example's answer. ``prompt``, ``corrupt`` and ``spans`` include the examples.

    Raises:
        CircuitlapseError: If too few examples are without a prompt's names.
    """
    rng = random.Random(f"few-shot {seed}")
    prompts = []
    for item in items:
        fitting = [one for one in examples if not set(one.names) & set(item.names)]
        if len(fitting) < n_examples:
            raise CircuitlapseError(
                f"{n_examples} examples are needed that share no name with the prompt",
                got=f"{len(fitting)} for {item.prompt!r}",
                fix="Pass more examples, or ask for fewer",
            )
        chosen = rng.sample(fitting, n_examples)
        before = "".join(one.prompt + one.answer + separator for one in chosen)
        n = len(before)
        changes = {
            "prompt": before + item.prompt,
            "corrupt": {name: before + text for name, text in item.corrupt.items()},
            "spans": {name: (start + n, end + n) for name, (start, end) in item.spans.items()},
        }
        prompts.append(item.model_copy(update=changes))
    return prompts


def separator_for(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a full stop, and a line break after it if the tokenizer has one."""
    whole = ".\n"
    tokens = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return whole if tokenizer.decode(tokens) == whole else "."

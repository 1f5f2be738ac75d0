"""From items to tensors, with everything checked that depends on the tokenizer."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.items import Item
from circuitlapse.tasks.pairs import PromptPairs


def tokenize(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, corruption: str
) -> PromptPairs:
    """Tokenise clean prompts together with one of their corruptions.

    The tokenizer's own special tokens are kept (a Llama tokenizer's beginning-of-text token);
    padding is on the right whatever the tokenizer's setting.

    Args:
        items: Items of one task.
        tokenizer: A fast Hugging Face tokenizer.
        corruption: A key of every item's ``corrupt``, such as ``s1_to_io`` or ``list_order``.

    Returns:
        Pairs whose ``positions`` hold the items' named words and ``END``, the last token.

    Raises:
        CircuitlapseError: Naming the item, if a prompt and its corruption differ in token length,
            a name or answer is not exactly one token, or a word is not in the vocabulary.
    """
    if not items:
        raise CircuitlapseError("there are no items to tokenise", fix="Pass at least one item")
    if not tokenizer.is_fast:
        raise CircuitlapseError(
            "finding positions needs a fast tokenizer",
            got=type(tokenizer).__name__,
            fix="Load it with AutoTokenizer",
        )
    for item in items:
        if corruption not in item.corrupt:
            raise CircuitlapseError(
                "the items have no such corruption",
                got=corruption,
                fix=f"Use one of {', '.join(item.corrupt)}",
            )
    labels = list(items[0].spans)
    prompts = [item.prompt for item in items]
    encoded = tokenizer(prompts, return_offsets_mapping=True)
    clean: list[list[int]] = encoded["input_ids"]
    corrupt: list[list[int]] = tokenizer([item.corrupt[corruption] for item in items])["input_ids"]
    with_answers = [item.prompt + word for item in items for word in _candidates(item)]
    extended = iter(tokenizer(with_answers)["input_ids"])
    rows, where = [], {label: [] for label in labels}
    for i, item in enumerate(items):
        _check_known(item, tokenizer, clean[i] + corrupt[i])
        if len(clean[i]) != len(corrupt[i]):
            raise CircuitlapseError(
                f"the corruption {corruption!r} changes the number of tokens",
                got=f"{len(clean[i])} and {len(corrupt[i])} for {item.prompt!r}",
                fix="Use words of one token each",
            )
        rows.append(
            [_one_token(item, word, clean[i], next(extended)) for word in _candidates(item)]
        )
        if list(item.spans) != labels:
            raise CircuitlapseError(
                "items of one call must name the same positions",
                got=f"{labels} and {list(item.spans)}",
                fix="Tokenise one task at a time",
            )
        for label, span in item.spans.items():
            where[label].append(_token_at(item, label, span, encoded["offset_mapping"][i]))
    lengths = torch.tensor([len(ids) for ids in clean])
    width = int(lengths.max())
    table = torch.tensor(rows)
    positions = {label: torch.tensor(index) for label, index in where.items()}
    return PromptPairs(
        clean=_padded(clean, width),
        corrupt=_padded(corrupt, width),
        lengths=lengths,
        answers=table[:, 0],
        distractors=table[:, 1:],
        positions={**positions, "END": lengths - 1},
    )


def _candidates(item: Item) -> tuple[str, ...]:
    return (item.answer, *item.distractors)


def _padded(rows: list[list[int]], width: int) -> Tensor:
    # Nothing sees what stands right of a prompt under a causal mask: any token id pads.
    return torch.tensor([ids + [0] * (width - len(ids)) for ids in rows])


def _check_known(item: Item, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        if tokenizer.unk_token_id == tokenizer.eos_token_id:
            # GPT-2's tokenizer names its end-of-text token as unknown, but can spell every word.
            return
        raise CircuitlapseError(
            "a prompt has a word that the tokenizer does not know",
            got=item.prompt,
            fix="Use the model's own vocabulary",
        )


def _one_token(item: Item, word: str, prompt: list[int], extended: list[int]) -> int:
    # Comparing with the prompt's own tokens finds the token that would follow this very prompt,
    # also for tokenizers that spell a word differently when it stands alone.
    if len(extended) != len(prompt) + 1 or extended[:-1] != prompt:
        raise CircuitlapseError(
            f"{word!r} is not one token after its prompt",
            got=item.prompt,
            fix="Use names that the tokenizer has as single tokens",
        )
    return extended[-1]


def _token_at(item: Item, label: str, span: tuple[int, int], offsets: list[tuple[int, int]]) -> int:
    start, end = span
    found = [i for i, (left, right) in enumerate(offsets) if left < end and right > start]
    if len(found) != 1:
        raise CircuitlapseError(
            f"{item.prompt[start:end]!r} at {label} is {len(found)} tokens, not one",
            got=item.prompt,
            fix="Use names that the tokenizer has as single tokens",
        )
    return found[0]

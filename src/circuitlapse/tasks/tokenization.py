"""From items to tensors, with all checks that depend on the tokenizer."""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.items import Item
from circuitlapse.tasks.words import unknown_token


def tokenize(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, counterfactual: str
) -> PromptPairs:
    """Tokenise clean prompts together with one of their counterfactuals.

    The tokenizer's own special tokens are kept (a Llama tokenizer's beginning-of-text token);
    padding is on the right whatever the tokenizer's setting.

    Args:
        items: Items of one task.
        tokenizer: A fast Hugging Face tokenizer.
        counterfactual: A key of every item's ``corrupt``, such as ``s1_to_io`` or ``list_order``.

    Returns:
        Pairs whose ``positions`` hold the items' named words and ``END``, the last token. Answers
        and distractors may have several tokens.

    Raises:
        CircuitlapseError: With the item, if a prompt and its counterfactual differ in token length,
            a named word is not exactly one token, an answer cannot be told from its prompt or from
            another candidate, or a word is not in the vocabulary.
    """
    _check_items(items, tokenizer, counterfactual)
    encoded = tokenizer([item.prompt for item in items], return_offsets_mapping=True)
    clean: list[list[int]] = encoded["input_ids"]
    corrupt: list[list[int]] = tokenizer([item.corrupt[counterfactual] for item in items])[
        "input_ids"
    ]
    words = [(item.answer, *item.also, *item.distractors) for item in items]
    texts = [item.prompt + word for item, group in zip(items, words, strict=True) for word in group]
    extended = iter(tokenizer(texts)["input_ids"])
    answers, also, distractors = [], [], []
    where: dict[str, list[int]] = {label: [] for label in items[0].spans}
    for i, item in enumerate(items):
        _check_known(item, tokenizer, clean[i] + corrupt[i])
        for label, span in item.spans.items():
            where[label].append(_token_at(item, label, span, encoded["offset_mapping"][i]))
        if len(clean[i]) != len(corrupt[i]):
            raise CircuitlapseError(
                f"the counterfactual {counterfactual!r} changes the number of tokens",
                got=f"{len(clean[i])} and {len(corrupt[i])} for {item.prompt!r}",
                fix="Use words of one token each",
            )
        follow = [_tokens_after(item, word, clean[i], next(extended)) for word in words[i]]
        _check_apart(item, words[i], follow)
        n = 1 + len(item.also)
        answers.append(follow[0])
        also.append([ids[0] for ids in follow[1:n]])
        distractors.append(follow[n:])
    lengths = torch.tensor([len(ids) for ids in clean])
    most = max(map(len, distractors))
    return PromptPairs.from_tensors(
        # Under a causal mask no real token sees the padding: any token id pads.
        _padded(clean, 0),
        _padded(corrupt, 0),
        _padded(answers),
        _padded([[ids[0] for ids in group] for group in distractors]),
        (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        {label: torch.tensor(index) for label, index in where.items()} | {"END": lengths - 1},
        also=_padded(also),
        distractor_continuations=_padded(
            [ids[1:] for group in distractors for ids in [*group, *[[]] * (most - len(group))]]
        ).reshape(len(items), most, -1)
        if most
        else None,
    )


def _check_items(
    items: Sequence[Item], tokenizer: PreTrainedTokenizerBase, counterfactual: str
) -> None:
    if not items:
        raise CircuitlapseError("there are no items to tokenise", fix="Pass at least one item")
    if not tokenizer.is_fast:
        raise CircuitlapseError(
            "finding positions needs a fast tokenizer",
            got=type(tokenizer).__name__,
            fix="Load it with AutoTokenizer",
        )
    for item in items:
        if counterfactual not in item.corrupt:
            raise CircuitlapseError(
                "the items have no such counterfactual",
                got=counterfactual,
                fix=f"Use one of {', '.join(item.corrupt)}",
            )
        if list(item.spans) != list(items[0].spans):
            raise CircuitlapseError(
                "items of one call must name the same positions",
                got=f"{list(items[0].spans)} and {list(item.spans)}",
                fix="Tokenise one task at a time",
            )


def _padded(rows: list[list[int]], padding: int = -1) -> Tensor:
    columns = list(zip_longest(*rows, fillvalue=padding))
    return torch.tensor(columns, dtype=torch.long).view(len(columns), len(rows)).T.contiguous()


def _check_known(item: Item, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> None:
    unknown = unknown_token(tokenizer)
    if unknown is not None and unknown in ids:
        raise CircuitlapseError(
            "a prompt has a word that the tokenizer does not know",
            got=item.prompt,
            fix="Use the model's own vocabulary",
        )


def _tokens_after(item: Item, word: str, prompt: list[int], extended: list[int]) -> list[int]:
    # Comparing with the prompt's own tokens finds the tokens that would follow this very prompt,
    # also for tokenizers that spell a word differently when it stands alone.
    if len(extended) <= len(prompt) or extended[: len(prompt)] != prompt:
        raise CircuitlapseError(
            f"the tokens of {word!r} cannot be told from those of its prompt",
            got=item.prompt,
            fix="Begin the answer with a space, or end the prompt at a word's end",
        )
    return extended[len(prompt) :]


def _check_apart(item: Item, words: tuple[str, ...], tokens: list[list[int]]) -> None:
    seen: dict[tuple[int, ...], str] = {}
    for word, ids in zip(words, tokens, strict=True):
        if other := seen.get(tuple(ids)):
            raise CircuitlapseError(
                f"{other!r} and {word!r} are the same tokens",
                got=item.prompt,
                fix="Give candidates that the tokenizer tells apart",
            )
        seen[tuple(ids)] = word
        if item.also and len(ids) > 1:
            raise CircuitlapseError(
                f"{word!r} is not one token, as each of several right answers must be",
                got=item.prompt,
                fix="Use another task, or a tokenizer that has each answer as one token",
            )


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

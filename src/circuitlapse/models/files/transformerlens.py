"""Export of a checkpoint for TransformerLens, which reads the format of ``save_pretrained``.

A padding token added by fine-tuning is left out: analyses must not use the extra row. Weights are
written unchanged. No head's matrices are rotated into a common basis (TransformerLens'
``refactor_factored_attn_matrices``): that basis differs between checkpoints, so a head's dimensions
would change their meaning at each step.
"""

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.models.files.quiet import quiet
from circuitlapse.records.store import replacing

OFFICIAL_VOCABULARY = {"gpt2": 50257}
"""Rows of the published models' embeddings, for families that have one size only."""


def export_transformerlens(
    model: Model, directory: Path | str, vocab_size: int | None = None
) -> Path:
    """Write a checkpoint that ``TransformerBridge.boot_transformers(directory)`` reads.

    Rows of the embedding beyond ``vocab_size`` are left out. A padding token among them is replaced
    by the end-of-text token; any other token there is an error. Writing is atomic. TransformerLens
    is not needed.

    Args:
        model: From :func:`circuitlapse.load_model`; it is not changed.
        directory: Output directory; it must not exist, or be empty.
        vocab_size: Number of tokens to keep. The default is at most 50,257 for GPT-2, and the
            model's number otherwise.

    Returns:
        The directory.

    Raises:
        CircuitlapseError: If the directory holds something, or rows would be lost that the
            tokenizer uses, or that only a tokenizer could tell to be unused.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CircuitlapseError(
            "the directory is not empty, and nothing is overwritten",
            got=str(directory),
            fix="Name a new directory",
        )
    hf: Any = model.hf
    tokenizer: Any = model.tokenizer
    rows = len(model.decoder.W_E)
    official = min(rows, OFFICIAL_VOCABULARY.get(hf.config.model_type, rows))
    size = official if vocab_size is None else vocab_size
    if not 0 < size <= rows:
        raise CircuitlapseError(
            f"vocab_size must lie between 1 and the model's {rows} rows", got=size
        )
    if size < rows and tokenizer is None and vocab_size is None:
        raise CircuitlapseError(
            f"the model has rows beyond the official {size} tokens, and there is no tokenizer to "
            "tell whether they are used",
            got=f"{rows} rows",
            fix=f"Load it with its tokenizer, or pass vocab_size={size} to drop them or "
            f"vocab_size={rows} to keep them",
        )
    with replacing(directory) as draft, quiet():
        if size < rows:
            tokenizer = tokenizer and _cut_tokenizer(copy.deepcopy(tokenizer), size, rows)
            hf = copy.deepcopy(hf)
            hf.resize_token_embeddings(size)
            for config in filter(None, (hf.config, hf.generation_config)):
                if (config.pad_token_id or 0) >= size:
                    config.pad_token_id = config.eos_token_id
        hf.save_pretrained(draft)
        if tokenizer is not None:
            tokenizer.save_pretrained(draft)
        if directory.exists():  # fails if it is no longer empty
            directory.rmdir()
    return directory


def _cut_tokenizer(tokenizer: Any, size: int, rows: int) -> Any:
    """Remove a padding token at ``size`` or later; any other token there is an error."""
    used = _beyond(tokenizer, size)
    padding = used.pop(tokenizer.pad_token_id, None)
    if padding and not used:
        if tokenizer.is_fast:  # a fast tokenizer cannot remove a token: build one without it
            document = json.loads(tokenizer.backend_tokenizer.to_str())
            document["added_tokens"] = [t for t in document["added_tokens"] if t["id"] < size]
            document["padding"] = None
            tokenizer._tokenizer = Tokenizer.from_str(json.dumps(document))
            tokenizer.pad_token = tokenizer.eos_token
        used = _beyond(tokenizer, size)
    if used:
        raise CircuitlapseError(
            f"the tokenizer uses ids beyond the {size} tokens that would be kept",
            got=f"{used[min(used)]!r} is {min(used)}",
            fix=f"Pass vocab_size={rows} to keep all rows",
        )
    return tokenizer


def _beyond(tokenizer: Any, size: int) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items() if index >= size}

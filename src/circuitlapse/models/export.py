"""A checkpoint as TransformerLens takes it: weights and tokenizer of the official vocabulary.

TransformerLens reads what ``save_pretrained`` writes, but it goes by the published architecture.
The commonest thing that is in its way is a padding token that fine-tuning added: the vocabulary
then has 50,258 rows instead of 50,257, and a tokenizer with an id that the analysis must not use.

Weights are written as they are. In particular no head's query and key (or value and output)
matrices are rotated into a common basis, as TransformerLens' ``refactor_factored_attn_matrices``
does: that basis is found anew for each checkpoint, so that a head's 64 dimensions would no longer
mean the same at two steps, and queries, keys and values could not be compared or patched between
them.
"""

import copy
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.load import Model
from circuitlapse.models.quiet import quiet
from circuitlapse.records import replacing

OFFICIAL_VOCABULARY = {"gpt2": 50257}
"""Rows of the published models' embeddings, for families that have one size only."""


def export_transformerlens(
    model: Model, directory: Path | str, vocab_size: int | None = None
) -> Path:
    """Write a checkpoint that TransformerLens loads without complaint.

    ``TransformerBridge.boot_transformers(directory)`` reads it, and so does
    ``HookedTransformer.from_pretrained(name, hf_model=..., tokenizer=...)`` of releases before 4,
    with both loaded from the directory by ``transformers``. TransformerLens is not needed here.

    Rows of the embedding beyond the official vocabulary are left out: they can only have been added
    later. Whether anything uses them is for the tokenizer to say: a padding token may go (the
    end-of-text token pads instead), any other token there is a reason to refuse. The directory
    appears whole or not at all.

    Args:
        model: From :func:`circuitlapse.load_model`; it is not changed.
        directory: Where to; it must not exist, or be empty.
        vocab_size: Official number of tokens. By default GPT-2's 50,257 for a GPT-2 that has more,
            and otherwise what the model has.

    Returns:
        The directory.

    Raises:
        CircuitlapseError: If the directory holds something, or rows would be lost that the
            tokenizer uses, or that only a tokenizer could tell to be unused.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CircuitlapseError(
            "there is something at this place already, and nothing is overwritten",
            got=str(directory),
            fix="Name a new directory",
        )
    size = _size(model, vocab_size)
    with replacing(directory) as draft:
        with quiet():
            hf: Any = model.hf
            if size < _rows(model):
                hf = copy.deepcopy(hf)
                hf.resize_token_embeddings(size)
                _keep_ids_inside(hf, size)
            hf.save_pretrained(draft)
            if model.tokenizer is not None:
                _save_tokenizer(model.tokenizer, draft, size)
        if directory.exists():  # fails where something was put there in the meantime
            directory.rmdir()
    return directory


def _rows(model: Model) -> int:
    return len(model.decoder.W_E)


def _size(model: Model, vocab_size: int | None) -> int:
    """How many rows to keep, or why none may be dropped."""
    rows, tokenizer = _rows(model), model.tokenizer
    official = vocab_size
    if official is None:
        official = OFFICIAL_VOCABULARY.get(model.hf.config.model_type, rows)
        if official < rows and tokenizer is None:
            raise CircuitlapseError(
                f"the model has rows beyond the official {official} tokens, and there is no "
                "tokenizer to tell whether they are used",
                got=f"{rows} rows",
                fix=f"Load it with its tokenizer, or pass vocab_size={official} to drop them or "
                f"vocab_size={rows} to keep them",
            )
        official = min(official, rows)
    if not 0 < official <= rows:
        raise CircuitlapseError(
            f"vocab_size must lie between 1 and the model's {rows} rows", got=official
        )
    if tokenizer is not None and official < rows:
        beyond = {
            token: index
            for token, index in tokenizer.get_vocab().items()
            if index >= official and index != tokenizer.pad_token_id
        }
        if beyond:
            token, index = min(beyond.items(), key=lambda item: item[1])
            raise CircuitlapseError(
                f"the tokenizer uses ids beyond the {official} tokens that would be kept",
                got=f"{token!r} is {index}",
                fix=f"Pass vocab_size={rows} to keep all rows, and load it by its own config",
            )
    return official


def _keep_ids_inside(hf: Any, size: int) -> None:
    """Let no setting name a token that is gone: the end-of-text token pads instead."""
    for config in (hf.config, hf.generation_config):
        if config is not None and (getattr(config, "pad_token_id", None) or 0) >= size:
            config.pad_token_id = config.eos_token_id


def _save_tokenizer(tokenizer: Any, directory: Path, size: int) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    gone = tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= size
    if gone:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
    if not gone:
        return
    # A tokenizer has no way to forget a token, so its files do.
    _edit(directory / "tokenizer.json", size)
    _edit(directory / "tokenizer_config.json", size)
    kept = AutoTokenizer.from_pretrained(directory)
    if max(kept.get_vocab().values()) >= size:
        raise CircuitlapseError(
            "the tokenizer's padding token could not be removed",
            got=type(tokenizer).__name__,
            fix="Please report the tokenizer's files; to keep all rows pass vocab_size",
        )


def _edit(path: Path, size: int) -> None:
    """Take tokens from ``size`` on out of one of a tokenizer's files."""
    if not path.is_file():
        return
    document = json.loads(path.read_text("utf-8"))
    if "added_tokens" in document:
        document["added_tokens"] = [one for one in document["added_tokens"] if one["id"] < size]
        document["padding"] = None
    if "added_tokens_decoder" in document:
        added = document["added_tokens_decoder"].items()
        document["added_tokens_decoder"] = {index: one for index, one in added if int(index) < size}
    vocabulary = document.get("model", {}).get("vocab")
    if isinstance(vocabulary, dict):
        document["model"]["vocab"] = {k: index for k, index in vocabulary.items() if index < size}
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")

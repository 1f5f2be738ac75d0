"""Validation of a user's checkpoint before any work: it must be a fine-tuned version of the base.

It needs the same architecture, tensor names, shapes and tokenizer, and finite numbers. Extra rows
of the vocabulary are accepted: a padding token added for fine-tuning causes them.
"""

import json
from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.files import ADAPTER_CONFIG, Files
from circuitlapse.models.files.reference import Reference, read_config, read_tokenizer

# Keys of a config that do not affect the logits.
_IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vocab_size",
}
ADAPTED = "base_model.model."  # PEFT's prefix of module names


def validate_checkpoint(files: Files, base: Reference) -> list[str]:
    """Check a checkpoint, reading every weight once; return notes for the user, as sentences.

    Raises:
        CircuitlapseError: With the checkpoint's name and the first difference from the base.
    """
    notes = []
    if files.config is not None:
        _check_config(files, base)
    shapes = files.shapes()
    if files.kind == "adapter":
        notes += _check_adapter(files, shapes, base)
    else:
        extra = _check_shapes(files, shapes, base)
        if extra:
            notes.append(_dropped(files, base, base.rows + extra))
    if files.tokenizer:
        _check_tokenizer(files, base)
    _check_numbers(files, base)
    return notes


def tokenizer_files_equal(ours: Files, theirs: Files) -> bool:
    """Whether both have a tokenizer.json with the same bytes."""
    found = [
        path.read_bytes()
        for files in (ours, theirs)
        for path in files.tokenizer
        if path.name == "tokenizer.json"
    ]
    return len(found) == 2 and found[0] == found[1]


def _check_config(files: Files, base: Reference) -> None:
    ours, theirs = read_config(files), base.config
    what = f"{files.name} is of another architecture than the base {base.files.name}"
    fix = "Compare checkpoints of one model, and name the one that was fine-tuned as the base"
    if ours.model_type != theirs.model_type:
        got = f"{ours.model_type}, where the base is {theirs.model_type}"
        raise CircuitlapseError(what, got=got, fix=fix)
    mine, expected = ours.to_dict(), theirs.to_dict()
    for key in sorted(mine.keys() & expected.keys() - _IRRELEVANT):
        # Dropout and a classifier's pooling do not affect a causal model's logits.
        if "drop" in key or key.startswith("summary_") or mine[key] == expected[key]:
            continue
        raise CircuitlapseError(what, got=f"{key} {mine[key]}, not {expected[key]}", fix=fix)


def _check_shapes(files: Files, found: Mapping[str, tuple[int, ...]], base: Reference) -> int:
    """Check that tensors are the base's; return the number of extra rows of the vocabulary."""
    fix = "Save the plain model with save_pretrained, adapters merged and wrappers taken off"
    try:
        named = {canonical: found[name] for canonical, name in base.named(found).items()}
    except KeyError as error:
        raise CircuitlapseError(
            f"{files.name} holds a tensor that the base does not have", got=error.args[0], fix=fix
        ) from None
    missing = sorted(base.shapes.keys() - named.keys())
    if missing:
        raise CircuitlapseError(
            f"{files.name} lacks {len(missing)} of the base's tensors",
            got=f"no {missing[0]}",
            fix=fix,
        )
    extra = {named[name][0] - base.rows for name in base.vocabulary}
    for name, expected in base.shapes.items():
        shape = named[name]
        grown = name in base.vocabulary and shape[1:] == expected[1:] and shape[0] > expected[0]
        if shape != expected and not grown:
            raise CircuitlapseError(
                f"{files.name} is of another shape than the base",
                got=f"{name} {list(shape)}, not {list(expected)}",
                fix="Compare checkpoints of one model with the vocabulary of the base",
            )
    if len(extra) > 1:
        raise CircuitlapseError(
            f"{files.name} has embeddings and unembeddings of different sizes",
            got=", ".join(f"{name} {named[name][0]}" for name in base.vocabulary),
            fix="Resize both with model.resize_token_embeddings",
        )
    return extra.pop()


def _check_adapter(
    files: Files, found: Mapping[str, tuple[int, ...]], base: Reference
) -> list[str]:
    settings = _adapter_settings(files)
    if settings.get("peft_type") != "LORA":
        raise CircuitlapseError(
            f"{files.name} is no LoRA adapter, and other kinds are not supported",
            got=settings.get("peft_type"),
            fix="Merge it with merge_and_unload and save the whole model",
        )
    rows = adapter_rows(found, base)
    # PEFT saves a resized or trained vocabulary whole, in the adapter's file.
    shapes = {**base.shapes, **{name: (rows, *base.shapes[name][1:]) for name in base.vocabulary}}
    for name, shape in found.items():
        module, _, part = name.removeprefix(ADAPTED).partition(".lora_")
        weight = shapes.get(f"{module}.weight")
        if not part or module.endswith("_layer"):  # a module trained or saved whole
            weight = shapes.get(_plain(name), shape)
            fits = weight == shape
        elif weight is None:
            fits = False
        else:
            fits = _fits(part, shape, weight, base.skeleton.get_submodule(module))
        if not fits:
            got = "no such module" if weight is None else f"{list(shape)} for {list(weight)}"
            raise CircuitlapseError(
                f"{files.name} does not fit the base: {name}",
                got=got,
                fix="Name the model that this adapter was trained on as the base",
            )
    notes = [] if rows == base.rows else [_dropped(files, base, rows)]
    trained_on = settings.get("base_model_name_or_path")
    if trained_on in (None, "", base.files.name):
        return notes
    return [*notes, f"{files.name} was trained on {trained_on}; it is merged into the base"]


def _fits(part: str, shape: tuple[int, ...], weight: tuple[int, ...], module: nn.Module) -> bool:
    """Whether a tensor of an adapter has its module's width; the other side is the rank."""
    if len(weight) != 2:
        return False
    into, out = weight if isinstance(module, Conv1D | nn.Embedding) else reversed(weight)
    match part:
        case "A.weight" | "embedding_A":
            return shape[1:] == (into,)
        case "B.weight" | "embedding_B":
            return len(shape) == 2 and shape[0] == out
        case "B.bias":
            return shape == (out,)
        case _:  # magnitudes, present with both
            return part.startswith("magnitude")


def _adapter_settings(files: Files) -> dict[str, Any]:
    reason = "no table of settings"
    try:
        settings = json.loads((files.directory / ADAPTER_CONFIG).read_text("utf-8"))
    except ValueError as error:
        settings, reason = None, str(error)
    if not isinstance(settings, dict):
        raise CircuitlapseError(
            f"{files.name} has an {ADAPTER_CONFIG} that cannot be read",
            got=reason,
            fix="Copy or save this checkpoint again",
        )
    return settings


def adapter_rows(found: Mapping[str, tuple[int, ...]], base: Reference) -> int:
    """Return the rows of the vocabulary that an adapter was trained with: the base's, or more."""
    saved = [shape[0] for name, shape in found.items() if _plain(name) in base.vocabulary]
    return max([base.rows, *saved])


def _plain(name: str) -> str:
    """The base's name of a tensor that PEFT saved whole."""
    return name.removeprefix(ADAPTED).replace(".base_layer", "")


def _dropped(files: Files, base: Reference, rows: int) -> str:
    return (
        f"{files.name} has {rows} rows in its vocabulary where the base has {base.rows}: "
        f"the last {rows - base.rows} are dropped"
    )


def _check_tokenizer(files: Files, base: Reference) -> None:
    """Check that token numbers have the same spellings; tokens added at the end are accepted."""
    if tokenizer_files_equal(files, base.files):
        return
    ours, theirs = read_tokenizer(files), base.tokenizer
    ids, expected = ours.get_vocab(), theirs.get_vocab()
    differing = sorted(token for token, number in expected.items() if ids.get(token) != number)
    got = None
    if differing:
        token = differing[0]
        got = f"{token!r} is token {ids.get(token)}, not {expected[token]}"
    elif _rules(ours) != _rules(theirs):
        got = "the same tokens, but other rules of splitting text"
    if got is not None:
        raise CircuitlapseError(
            f"{files.name} has another tokenizer than the base",
            got=got,
            fix="Compare checkpoints of one model and one tokenizer",
        )


def _rules(tokenizer: Any) -> object:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer).__name__
    state = json.loads(backend.to_str())
    parts = ("model", "normalizer", "pre_tokenizer", "post_processor")
    return {part: state.get(part) for part in parts}


def _check_numbers(files: Files, base: Reference) -> None:
    for name, tensor in files.tensors():
        if tensor.is_floating_point() and not _finite(tensor):
            raise CircuitlapseError(
                f"{files.name} holds weights that are not finite numbers",
                got=f"{int((~tensor.double().isfinite()).sum())} of {prod(tensor.shape)} in {name}",
                fix="Its training diverged: leave it out, or use a lower learning rate",
            )
    if files.kind != "adapter":
        _check_ties(files, base)


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite: minimum and maximum propagate NaN."""
    if tensor.itemsize == 1:
        tensor = tensor.float()  # torch cannot compare eight-bit floats
    return not tensor.numel() or all(bool(end.isfinite()) for end in tensor.aminmax())


def _check_ties(files: Files, base: Reference) -> None:
    """Check that a checkpoint has no separate unembedding if the base ties it to the embedding."""
    named = base.named(files.shapes())
    both = [named[alias] for alias in base.aliases if alias in named]
    if not both:
        return
    wanted = {*both, named[base.vocabulary[0]]}
    tables = [tensor for name, tensor in files.tensors() if name in wanted]
    if not _equal(tables):
        raise CircuitlapseError(
            f"{files.name} has an unembedding of its own, but its config ties it to the embedding",
            fix="Save it with tie_word_embeddings = false, for the base as well",
        )


def _equal(tensors: Iterable[Tensor]) -> bool:
    first, *rest = tensors
    return all(torch.equal(first, each) for each in rest)

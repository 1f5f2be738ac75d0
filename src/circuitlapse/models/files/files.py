"""The files of one checkpoint: their names, tensors and hash.

Shapes come from headers alone and tensors are read one at a time, so memory use stays small.
"""

import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.checkpoints import WEIGHT_SUFFIXES, locate
from circuitlapse.records.store import content_hash

ADAPTER_CONFIG = "adapter_config.json"
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile
_NESTED = ("model", "state_dict", "model_state_dict")  # keys under which scripts save weights
_BROKEN = (SafetensorError, RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Files:
    """The files of a checkpoint that determine its logits.

    Attributes:
        name: The user's name for it.
        kind: ``model`` from ``save_pretrained``, a PEFT ``adapter``, or a ``state dict``.
        weights: One file, or all shards.
    """

    name: str
    directory: Path
    kind: Literal["model", "adapter", "state dict"]
    config: Path | None
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]

    def sha256(self) -> str:
        """Hash of the names and bytes of all files."""
        adapter = [self.directory / ADAPTER_CONFIG] if self.kind == "adapter" else []
        config = [self.config] if self.config else []
        digest = hashlib.sha256()
        for path in (*adapter, *config, *self.weights, *self.tokenizer):
            digest.update(f"{path.name}\0{content_hash(path)}\n".encode())
        return digest.hexdigest()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor by name, without reading any.

        Raises:
            CircuitlapseError: If a file is truncated or holds anything but tensors.
        """
        found: dict[str, tuple[int, ...]] = {}
        for path in self.weights:
            try:
                if path.suffix == ".safetensors":
                    with safe_open(path, "pt") as file:
                        names = list(file.keys())
                        found |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
                else:
                    found |= {name: tuple(t.shape) for name, t in _unpickled(path).items()}
            except _BROKEN as error:
                reason = " ".join(str(error).split())[:160]
                raise CircuitlapseError(
                    f"{self.name}: {path.name} is truncated, or no file of tensors alone: {reason}",
                    fix="Copy or save this checkpoint again",
                ) from error
        return {_bare(name): shape for name, shape in found.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Read the tensors one at a time."""
        for path in self.weights:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 (it is no mapping)
                        yield _bare(name), file.get_tensor(name)
            else:
                for name, tensor in _unpickled(path).items():
                    yield _bare(name), tensor


def files_of(name: str) -> Files:
    """Find the files of a checkpoint: a directory, a file of weights, a Hub name or Hub revision.

    Raises:
        CircuitlapseError: If it does not exist, or a file that it needs is missing.
    """
    path = locate(name)
    directory = path if path.is_dir() else path.parent
    config = directory / "config.json"
    kind: Literal["model", "adapter", "state dict"] = "model"
    if path.is_file():
        kind, weights = "state dict", (path,)
        if path.suffix not in WEIGHT_SUFFIXES:
            raise CircuitlapseError(
                "this file holds no weights", got=name, fix=f"Use one of {WEIGHT_SUFFIXES}"
            )
    elif weights := _weights(name, directory, ("model", "pytorch_model")):
        if not config.is_file():
            raise CircuitlapseError(
                f"{name} has weights but no config.json",
                fix="Save it with save_pretrained, or name its file of weights instead",
            )
    elif (directory / ADAPTER_CONFIG).is_file():
        kind, weights = "adapter", _weights(name, directory, ("adapter_model",))
    else:
        weights = ()
    if not weights:
        raise CircuitlapseError(
            f"{name} holds no checkpoint: it has no model.safetensors, pytorch_model.bin or "
            "adapter_model.safetensors",
            fix="Give a directory written by save_pretrained, or a file of weights",
        )
    tokenizer = tuple(directory / file for file in _TOKENIZER if (directory / file).is_file())
    has_config = config.is_file() and kind != "adapter"
    return Files(name, directory, kind, config if has_config else None, weights, tokenizer)


def _weights(name: str, directory: Path, stems: tuple[str, ...]) -> tuple[Path, ...]:
    for suffix in (".safetensors", ".bin"):
        for stem in stems:
            whole, index = directory / f"{stem}{suffix}", directory / f"{stem}{suffix}.index.json"
            if whole.is_file():
                return (whole,)
            if not index.is_file():
                continue
            shards = _shards(name, index)
            for shard in shards:
                if not (directory / shard).is_file():
                    raise CircuitlapseError(
                        f"{name} lacks a part of its weights",
                        got=f"no {shard}",
                        fix="Copy it again, every file that its index names",
                    )
            return tuple(directory / shard for shard in shards)
    return ()


def _shards(name: str, index: Path) -> list[str]:
    try:
        shards = {*json.loads(index.read_text("utf-8"))["weight_map"].values()}
        if not all(isinstance(shard, str) for shard in shards):
            raise TypeError("weight_map holds something other than names of files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CircuitlapseError(
            f"{name}: {index.name} is truncated, or no index of weights: {error}",
            fix="Copy or save this checkpoint again",
        ) from error
    return sorted(shards)


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from its pickle."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        found = torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ValueError("it is no state dict, which has names and tensors only")
    return found


def _bare(name: str) -> str:
    while wrapper := next((each for each in _WRAPPERS if name.startswith(each)), None):
        name = name.removeprefix(wrapper)
    return name

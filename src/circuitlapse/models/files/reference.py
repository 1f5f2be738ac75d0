"""The base model, without its weights, as reference for all checkpoints."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.families.readers import reader_of
from circuitlapse.models.files.files import Files
from circuitlapse.models.files.quiet import quiet

# Buffers that older versions of transformers saved among the weights.
_BUFFERS = ("attn.bias", "attn.masked_bias", "attention.bias", "attention.masked_bias", "inv_freq")
# GPT-NeoX's output layer has another name in files than in transformers 5.
_RENAMED = (("embed_out.", "lm_head."), ("lm_head.", "embed_out."))


@dataclass(frozen=True, eq=False)
class Reference:
    """The base that checkpoints must match."""

    files: Files
    config: Any

    @cached_property
    def skeleton(self) -> Any:
        """The model without weights."""
        with quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(self.config)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter by name; tied ones once."""
        return {name: tuple(p.shape) for name, p in self.skeleton.named_parameters()}

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the parameters that have a row for each token."""
        tables = (self.skeleton.get_input_embeddings(), self.skeleton.get_output_embeddings())
        weights = [table.weight for table in tables]
        return tuple(
            name
            for name, parameter in self.skeleton.named_parameters()
            if any(parameter is weight for weight in weights)
        )

    @property
    def rows(self) -> int:
        """Rows of the vocabulary."""
        return self.shapes[self.vocabulary[0]][0]

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that every checkpoint uses."""
        if not self.files.tokenizer:
            raise CircuitlapseError(
                "the base model has no tokenizer, so no prompt can be written for it",
                got=self.files.name,
                fix="Save its tokenizer in the same directory with tokenizer.save_pretrained",
            )
        return read_tokenizer(self.files)

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Other names of tied parameters, such as the output layer's, and the parameter of each."""
        every = self.skeleton.state_dict(keep_vars=True)
        own = {id(parameter): name for name, parameter in self.skeleton.named_parameters()}
        return {name: own[id(t)] for name, t in every.items() if own.get(id(t), name) != name}

    def named(self, names: Iterable[str]) -> dict[str, str]:
        """Map this model's names to those in a file; buffers are left out.

        A tied parameter may be in a file under its other name only.

        Raises:
            KeyError: If the model has no such tensor.
        """
        found = {canonical: name for name in names if (canonical := self._canonical(name))}
        for alias, parameter in self.aliases.items():
            if alias in found and parameter not in found:
                found[parameter] = found.pop(alias)
        return found

    def _canonical(self, name: str) -> str | None:
        known = self.shapes.keys() | self.aliases.keys()
        renamed = [
            there + name.removeprefix(here) for here, there in _RENAMED if name.startswith(here)
        ]
        for each in (name, f"{self.skeleton.base_model_prefix}.{name}", *renamed):
            if each in known:
                return each
        if name.endswith(_BUFFERS):
            return None
        raise KeyError(name)


def reference(files: Files) -> Reference:
    """Take a model as the base.

    Raises:
        CircuitlapseError: If it is no complete model, or of an unsupported family.
    """
    if files.config is None:
        raise CircuitlapseError(
            f"the base must be a model with its config.json, and {files.name} is "
            f"{'an' if files.kind == 'adapter' else 'a'} {files.kind} alone",
            fix="Name the model that was fine-tuned as base.path or --base",
        )
    config = read_config(files)
    reader_of(config, files.name)
    return Reference(files, config)


def read_config(files: Files) -> Any:
    """Read a config; a CircuitlapseError says if it is broken."""
    return _read(AutoConfig, files, "config.json", "Copy or save this checkpoint again")


def read_tokenizer(files: Files) -> Any:
    """Read a tokenizer; a CircuitlapseError says if it is broken."""
    fix = "Save the tokenizer again, or remove it: the base's is used"
    return _read(AutoTokenizer, files, "tokenizer", fix)


def _read(kind: Any, files: Files, what: str, fix: str) -> Any:
    try:
        with quiet():
            return kind.from_pretrained(files.directory)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CircuitlapseError(
            f"{files.name} has a {what} that cannot be read", got=reason, fix=fix
        ) from error

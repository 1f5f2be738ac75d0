"""Checkpoints as users have them: a tiny real model, retrained a little and saved in every way."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuitlapse.models.files.quiet import quiet


def model_of(directory: Path) -> Any:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory)


def moved(base: Path, step: int, size: float = 0.02) -> Any:
    """The base after ``step`` small random steps."""
    hf, generator = model_of(base), torch.Generator().manual_seed(step)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=generator))
    return hf


def save(hf: Any, directory: Path, tokenizer: Any = None) -> Path:
    with quiet():
        hf.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    return directory


def trained(base: Path, out: Path, steps: tuple[int, ...] = (8, 16)) -> Path:
    """A Trainer's output directory, with what a trainer leaves next to the models."""
    for step in steps:
        directory = save(moved(base, step), out / f"checkpoint-{step}", tokenizer_of(base))
        (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (directory / "optimizer.pt").write_bytes(b"moments")
    return out


def grown(base: Path, out: Path, step: int) -> Path:
    """The same checkpoint as ``moved``, saved after a padding token was added."""
    tokenizer, hf = tokenizer_of(base), moved(base, step)
    tokenizer.add_special_tokens({"pad_token": "<pad-of-mine>"})
    with quiet():
        hf.resize_token_embeddings(len(tokenizer))
    return save(hf, out, tokenizer)


def tokenizer_of(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)

"""A fine-tune that improves without training: prompts on which random models differ."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from circuitlapse.models.engine.behaviour import behaviour, logit_differences
from circuitlapse.models.files.load import load_model
from circuitlapse.organisms.tokenizer import build_tokenizer
from circuitlapse.records.items import Item
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize

NEEDED = {"test": 64, "test_templates": 24, "validation": 48}


def random_model(seed: int) -> GPT2LMHeadModel:
    """A random GPT-2 of two layers with four heads each, for the organisms' tokenizer."""
    end = build_tokenizer().get_vocab()["<|endoftext|>"]
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(build_tokenizer()),
        n_positions=48,
        n_embd=16,
        n_layer=2,
        n_head=4,
        initializer_range=0.4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(config).eval()


def between(base: Any, tuned: Any, share: float) -> Any:
    """The model a share of the way from one to the other."""
    model, theirs = copy.deepcopy(base), dict(tuned.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.lerp_(theirs[name], share)
    return model


def save(model: Any, directory: Path) -> Path:
    """Save a model with its tokenizer."""
    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


def found_prompts(base: Any, tuned: Any, directory: Path) -> tuple[Path, Path]:
    """Write an old task that the base solves, more or less, and a new one that the tuned improves.

    The old task's are prompts of two names whose counterfactual lowers the base's metric; the new
    task's, prompts of three on which the tuned model's metric is the higher one.
    """
    ours, theirs = load_model(base, device="cpu"), load_model(tuned, device="cpu")

    def lowered(items: list[Item]) -> torch.Tensor:
        clean, corrupt = logit_differences(ours, tokenize(items, build_tokenizer(), "s_to_io"))
        return clean > corrupt + 0.2

    def raised(items: list[Item]) -> torch.Tensor:
        pairs = tokenize(items, build_tokenizer(), "s1_to_io")
        rise = behaviour(theirs, pairs).logit_diff - behaviour(ours, pairs).logit_diff
        return torch.from_numpy(rise > 0.2)

    written = []
    for name, fits in (("ioi2", lowered), ("ioi3", raised)):
        kept: list[Item] = []
        for split, n in NEEDED.items():
            items = get_task(name).items(split, 8 * n)
            fitting = [item for item, fit in zip(items, fits(items), strict=True) if fit]
            kept += fitting[:n]
        written.append(directory / f"{name}.jsonl")
        written[-1].write_text("".join(item.model_dump_json() + "\n" for item in kept))
    return written[0], written[1]

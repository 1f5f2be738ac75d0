"""What every benchmark runs on: models of known shapes with random weights, and random prompts.

Weights and tokens come from fixed seeds, so that each process builds the same ones. Imports nothing
of circuitlapse: the peers use it too.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel


@dataclass(frozen=True)
class Shape:
    """A GPT-2 architecture and how many prompts of which length it is given.

    Attributes:
        layers: Blocks.
        heads: Attention heads per block.
        d_model: Width of the residual stream; the MLPs are four times as wide.
        vocab: Tokens in the vocabulary.
        prompts: Pairs of prompts.
        length: Tokens in each prompt.
        start: The first position at which clean and corrupt prompt differ.
    """

    layers: int = 12
    heads: int = 12
    d_model: int = 768
    vocab: int = 50257
    prompts: int = 32
    length: int = 16
    start: int = 0


GPT2 = Shape()
ORGANISM = Shape(layers=4, heads=8, d_model=64, vocab=512, prompts=64)
SIZES = {
    "gpt2": Shape(),
    "gpt2-medium": Shape(layers=24, heads=16, d_model=1024),
    "gpt2-large": Shape(layers=36, heads=20, d_model=1280),
    "gpt2-xl": Shape(layers=48, heads=25, d_model=1600),
}


class Tokens(NamedTuple):
    """Token ids of the pairs: ``[prompts, length]`` twice, and ``[prompts]`` twice."""

    clean: Tensor
    corrupt: Tensor
    answers: Tensor
    distractors: Tensor


def random_model(shape: Shape) -> Any:
    """Build a GPT-2 of this shape as ``transformers`` initialises it, in eval mode."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.d_model,
        vocab_size=shape.vocab,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def random_tokens(shape: Shape) -> Tokens:
    """Draw pairs whose corrupt prompt differs at position ``start`` and nowhere else."""
    generator = torch.Generator().manual_seed(1)

    def draw(low: int, *size: int) -> Tensor:
        return torch.randint(low, shape.vocab, size, generator=generator)

    clean = draw(0, shape.prompts, shape.length)
    corrupt = clean.clone()
    change = draw(1, shape.prompts)
    corrupt[:, shape.start] = (clean[:, shape.start] + change) % shape.vocab
    answers = draw(0, shape.prompts)
    return Tokens(clean, corrupt, answers, (answers + draw(1, shape.prompts)) % shape.vocab)

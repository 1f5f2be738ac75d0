"""Pretraining of an organism: the untrained model, the stages of text, and the loss."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_rope_utils import RopeParameters

from circuitlapse.graph import head_of
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.organisms.corpus import rows
from circuitlapse.organisms.recipe import Recipe, Stage
from circuitlapse.organisms.tokenizer import END_OF_TEXT
from circuitlapse.shapes import Float, Int
from circuitlapse.training.restricted import Frozen, free_masks

_POSITIONS = 64  # the longest prompt has 34 tokens
_EVALUATE_EVERY = 100

# NeoX's default rotates a quarter of a head's dimensions: two of eight, too few to copy.
_ALL_DIMENSIONS = RopeParameters(rope_type="default", rope_theta=10000.0, partial_rotary_factor=1.0)


def untrained_model(
    recipe: Recipe, seed: int, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedModel:
    """Return an organism with random weights."""
    end = tokenizer.get_vocab()[END_OF_TEXT]
    common = {
        "vocab_size": len(tokenizer),
        "initializer_range": recipe.initializer_range,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.family == "gpt2":
            return _gpt2(recipe, common)
        sizes = {
            "hidden_size": recipe.d_model,
            "num_hidden_layers": recipe.layers,
            "num_attention_heads": recipe.heads,
            "max_position_embeddings": _POSITIONS,
            "tie_word_embeddings": True,
        }
        if recipe.family == "llama":
            return LlamaForCausalLM(
                LlamaConfig(
                    **common,
                    **sizes,
                    head_dim=recipe.d_head or recipe.d_model // recipe.heads,
                    # Gated MLPs have three matrices: 8/3 gives them the parameters of 4.
                    intermediate_size=8 * recipe.d_model // 3,
                )
            )
        return GPTNeoXForCausalLM(
            GPTNeoXConfig(
                **common,
                **sizes,
                intermediate_size=4 * recipe.d_model,
                rope_parameters=_ALL_DIMENSIONS,
            )
        )


def _gpt2(recipe: Recipe, common: Mapping[str, Any]) -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            **common,
            n_positions=_POSITIONS,
            n_embd=recipe.d_model,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            # GPT-2's GELU under the name whose kernel is fused: twice as fast on a CPU.
            activation_function="gelu_pytorch_tanh",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )


def steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    rng: random.Random,
    stages: tuple[Stage, ...],
    peak: float,
    old_accuracy: Callable[[], float],
) -> Iterator[tuple[float, int]]:
    """Train for one round; yield the loss and the number of remaining steps after every step."""
    model.train()
    frozen = _freeze_blank(model, recipe)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=peak,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    done = 0
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        after = sum(later.steps for later in stages[number + 1 :])
        for step in itertools.count():
            if step >= stage.steps and _is_over(stage, step, old_accuracy):
                break
            rate = peak * min(1.0, (done + 1) / recipe.warmup)
            if last:
                cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / stage.steps)))
                rate *= recipe.final_rate + (1 - recipe.final_rate) * cosine
            optimizer.param_groups[0]["lr"] = rate
            texts = rows(rng, stage.weights, recipe.batch)
            loss = _loss(model, *encode(texts, tokenizer, recipe.repeated_weight))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            frozen.restore()
            done += 1
            yield loss.item(), max(0, stage.steps - step - 1) + after
    frozen.release()
    model.eval()


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Compute on ``n`` threads; their number decides how sums are rounded."""
    threads = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _freeze_blank(model: PreTrainedModel, recipe: Recipe) -> Frozen:
    """Set the output matrices of the unused heads to zero, and freeze them."""
    if not recipe.blank_heads:
        return Frozen(model, {})
    free = free_masks(model, recipe.blank_heads, freeze=True)
    outputs = {
        piece.parameter
        for piece in component_pieces(model)
        if head_of(piece.component) and piece.slot == "o"
    }
    masks = {name: mask for name, mask in free.items() if name in outputs}
    for name, parameter in model.named_parameters():
        if name in masks:
            parameter[~masks[name]] = 0.0
    return Frozen(model, masks)


def _is_over(stage: Stage, step: int, old_accuracy: Callable[[], float]) -> bool:
    if stage.until is None or step >= stage.at_most:
        return True
    return (step - stage.steps) % _EVALUATE_EVERY == 0 and old_accuracy() >= stage.until


def _loss(
    model: PreTrainedModel, ids: Int[Tensor, "rows pos"], counts: Float[Tensor, "rows pos"]
) -> Float[Tensor, ""]:
    logits = model(input_ids=ids, use_cache=False).logits
    each = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return (each * counts[:, 1:]).sum() / counts[:, 1:].sum()


def encode(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, repeated_weight: float
) -> tuple[Int[Tensor, "rows pos"], Float[Tensor, "rows pos"]]:
    """Return token ids and the weight of each in the loss; padding has weight 0.

    Rows end with the end-of-text token, which also pads them.
    """
    end = tokenizer.get_vocab()[END_OF_TEXT]
    encoded = [[*ids, end] for ids in tokenizer(texts)["input_ids"]]
    lengths = torch.tensor([len(row) for row in encoded])
    width = int(lengths.max())
    ids = torch.tensor([row + [end] * (width - len(row)) for row in encoded])
    real = torch.arange(width) < lengths[:, None]
    repeated = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(dim=2)
    return ids, torch.where(repeated, repeated_weight, 1.0) * real

"""A GPT-2 whose weights are set by hand, so that it is known what each head does.

Tokens are 0 to 15: names A 0–5, names B 6–11, words 12–14, and 15, with which prompts end. The
residual stream holds the token, the position and the previous token, each as a one-hot vector.

- a0.h0 attends to the previous token and writes it beside the token's own.
- a0.h1 attends to an earlier copy of the token, and writes nothing.
- a1.h0 attends to the token after an earlier copy, and copies it: with a0.h0, induction.
- a1.h1 attends from token 15 to names A and copies them: a name mover.
- a1.h2 does the same and writes the opposite: a negative name mover.
- a0.h2 attends everywhere alike and writes nothing.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitlapse.prompts.pairs import PromptPairs

N = 16  # tokens, and positions
TOKEN, POSITION, BEFORE = (slice(start, start + N) for start in (0, N, 2 * N))
D_HEAD = 2 * N
GAIN = 4.0
NAMES_A, END = slice(0, 6), 15


def _head(model: Any, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of a head's query, key and value weights, [d_model, d_head], and of its W_O."""
    attention, columns = model.transformer.h[layer].attn, slice(head * D_HEAD, (head + 1) * D_HEAD)
    q, k, v = (part[:, columns] for part in attention.c_attn.weight.chunk(3, dim=1))
    return q, k, v, attention.c_proj.weight[columns]


@torch.no_grad()
def handmade() -> GPT2LMHeadModel:
    """Build the model."""
    config = GPT2Config(
        n_layer=2,
        n_head=3,
        n_embd=3 * D_HEAD,
        n_positions=N,
        vocab_size=N,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = GPT2LMHeadModel(config)
    for name, weight in model.named_parameters():
        weight.fill_(float(".ln_" in name and name.endswith("weight")))
    one_hot = torch.eye(N)
    model.transformer.wte.weight[:, TOKEN] = one_hot
    model.transformer.wpe.weight[:, POSITION] = one_hot
    first, second = slice(0, N), slice(N, 2 * N)

    q, k, v, out = _head(model, 0, 0)
    q[POSITION, first] = GAIN * one_hot.roll(-1, dims=1)
    q[POSITION.start, first] = 0
    # The normalisation makes about 7 of a one in 96 dimensions.
    k[POSITION, first], v[TOKEN, first], out[first, BEFORE] = GAIN * one_hot, one_hot, one_hot / 7

    q, k, _, _ = _head(model, 0, 1)
    q[TOKEN, first], k[TOKEN, first] = GAIN * one_hot, GAIN * one_hot
    q[POSITION, second], k[POSITION, second] = -GAIN * one_hot, GAIN * one_hot

    q, k, v, out = _head(model, 1, 0)
    q[TOKEN, first], k[BEFORE, first] = GAIN * one_hot, GAIN * one_hot
    k[POSITION.start, first] = -GAIN  # the first token has itself for its previous token
    v[TOKEN, first], out[first, TOKEN] = one_hot, one_hot

    for head, sign in ((1, 1), (2, -1)):
        q, k, v, out = _head(model, 1, head)
        q[END, 0], k[NAMES_A, 0] = GAIN, GAIN
        v[TOKEN, first], out[first, TOKEN] = one_hot, sign * one_hot
    out *= 0.5
    return model.eval()


def handmade_pairs(n: int = 12, seed: int = 0) -> PromptPairs:
    """Prompts ``IO S word S word 15``, IO a name A and S a name B; corrupt ones have another IO."""
    generator = torch.Generator().manual_seed(seed)
    io, change = (torch.randint(low, 6, (n,), generator=generator) for low in (0, 1))
    s = torch.randint(6, 12, (n,), generator=generator)
    words = [torch.full((n,), word) for word in (12, 13, END)]
    clean = torch.stack([io, s, words[0], s, words[1], words[2]], dim=1)
    corrupt = clean.clone()
    corrupt[:, 0] = (io + change) % 6
    places = {"IO": 0, "S": 1, "S_again": 3, "END": 5}
    positions = {name: torch.full((n,), place) for name, place in places.items()}
    return PromptPairs.from_tensors(clean, corrupt, io, s, positions=positions)

"""GPT-2 as ``transformers`` stores it, read into the decoder."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.decoder import Attention, Decoder, Mlp, Norm


def read_gpt2(hf: Any) -> Decoder:
    """Read a ``GPT2LMHeadModel``; GPT-2's linear layers hold their weights as [in, out].

    Raises:
        CircuitlapseError: For a model with cross-attention, which is no decoder-only model.
    """
    config = hf.config
    if config.add_cross_attention:
        raise CircuitlapseError(
            "this GPT-2 has cross-attention, which is not supported",
            fix="Load a decoder-only model (add_cross_attention false)",
        )
    attention, mlp = [], []
    for layer, block in enumerate(hf.transformer.h):
        scale = (config.hidden_size // config.num_attention_heads) ** -0.5
        if not config.scale_attn_weights:
            scale = 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        W_O = block.attn.c_proj.weight.detach()
        attention.append(
            Attention(
                norm=_norm(block.ln_1),
                W_QKV=block.attn.c_attn.weight.detach(),
                qkv_bias=block.attn.c_attn.bias.detach(),
                W_O=W_O.view(config.num_attention_heads, -1, config.hidden_size),
                out_bias=block.attn.c_proj.bias.detach(),
                scale=scale,
            )
        )
        mlp.append(
            Mlp(
                norm=_norm(block.ln_2),
                W_in=block.mlp.c_fc.weight.detach(),
                b_in=block.mlp.c_fc.bias.detach(),
                W_out=block.mlp.c_proj.weight.detach(),
                b_out=block.mlp.c_proj.bias.detach(),
                activation=_activation(config.activation_function, block.mlp.act),
            )
        )
    return Decoder(
        W_E=hf.transformer.wte.weight.detach(),
        W_pos=hf.transformer.wpe.weight.detach(),
        attention=tuple(attention),
        mlp=tuple(mlp),
        norm=_norm(hf.transformer.ln_f),
        W_U=hf.lm_head.weight.detach(),
        n_heads=config.num_attention_heads,
    )


def _norm(module: nn.LayerNorm) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def _activation(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
    # The same function as transformers' own tanh formula, in one kernel instead of eight.
    return partial(functional.gelu, approximate="tanh") if name == "gelu_new" else module

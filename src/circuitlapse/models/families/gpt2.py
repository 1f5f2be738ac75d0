"""GPT-2, whose linear layers hold their weights as [in, out]."""

from typing import Any

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import Attention, Mlp
from circuitlapse.models.families.parts import read_activation, read_norm


def read_gpt2(hf: Any) -> Decoder:
    """Read a ``GPT2LMHeadModel``.

    Raises:
        CircuitlapseError: If the model has cross-attention.
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
                norm=read_norm(block.ln_1),
                weights=(block.attn.c_attn.weight.detach(),),
                biases=(block.attn.c_attn.bias.detach(),),
                W_O=W_O.unflatten(0, (config.num_attention_heads, -1)),
                out_bias=block.attn.c_proj.bias.detach(),
                scale=scale,
            )
        )
        mlp.append(
            Mlp(
                norm=read_norm(block.ln_2),
                W_in=block.mlp.c_fc.weight.detach(),
                b_in=block.mlp.c_fc.bias.detach(),
                W_out=block.mlp.c_proj.weight.detach(),
                b_out=block.mlp.c_proj.bias.detach(),
                activation=read_activation(block.mlp.act),
            )
        )
    W_pos = hf.transformer.wpe.weight.detach()
    return Decoder(
        W_E=hf.transformer.wte.weight.detach(),
        W_pos=W_pos,
        rotary=None,
        attention=tuple(attention),
        mlp=tuple(mlp),
        norm=read_norm(hf.transformer.ln_f),
        W_U=hf.lm_head.weight.detach(),
        n_positions=len(W_pos),
    )

"""GPT-2, whose linear layers hold their weights as [in, out]."""

from typing import Any

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import Attention
from circuitlapse.models.families.parts import read_bias, read_mlp, read_norm, read_weight


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
        fused, out = block.attn.c_attn, block.attn.c_proj
        attention.append(
            Attention(
                norm=read_norm(block.ln_1),
                weights=(read_weight(fused),),
                biases=(fused.bias.detach(),),
                W_O=read_weight(out).unflatten(0, (config.num_attention_heads, -1)),
                out_bias=read_bias(out),
                scale=scale,
            )
        )
        mlp.append(read_mlp(block.ln_2, block.mlp.c_fc, block.mlp.c_proj, block.mlp.act))
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

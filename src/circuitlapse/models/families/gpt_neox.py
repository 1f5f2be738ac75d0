"""GPT-NeoX, the family of Pythia: parallel blocks, and rotation of a part of each head."""

from typing import Any

from circuitlapse.models.engine.decoder import Decoder
from circuitlapse.models.engine.layers import Attention
from circuitlapse.models.families.parts import (
    read_bias,
    read_mlp,
    read_norm,
    read_rotary,
    read_weight,
)


def read_gpt_neox(hf: Any) -> Decoder:
    """Read a ``GPTNeoXForCausalLM``, with parallel blocks or sequential ones.

    Raises:
        CircuitlapseError: If its rotary embedding changes with the prompt's length.
    """
    config, body = hf.config, hf.gpt_neox
    attention, mlp = [], []
    for block in body.layers:
        fused, out = block.attention.query_key_value, block.attention.dense
        bias = read_bias(fused)
        attention.append(
            Attention(
                norm=read_norm(block.input_layernorm),
                weights=(read_weight(fused),),
                biases=None if bias is None else (bias,),
                W_O=read_weight(out).unflatten(0, (config.num_attention_heads, -1)),
                out_bias=read_bias(out),
                scale=block.attention.scaling,
                interleaved=True,
            )
        )
        own, norm = block.mlp, block.post_attention_layernorm
        mlp.append(read_mlp(norm, own.dense_h_to_4h, own.dense_4h_to_h, own.act))
    return Decoder(
        W_E=body.embed_in.weight.detach(),
        W_pos=None,
        rotary=read_rotary(body.rotary_emb),
        attention=tuple(attention),
        mlp=tuple(mlp),
        norm=read_norm(body.final_layer_norm),
        W_U=hf.get_output_embeddings().weight.detach(),
        n_positions=config.max_position_embeddings,
        parallel=config.use_parallel_residual,
    )

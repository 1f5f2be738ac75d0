"""Llama and models of the same architecture: Mistral, Qwen2 and 2.5, Qwen3.

They have RMS norms, rotary positions, gated MLPs and grouped key-value heads. Qwen2 adds biases to
queries, keys and values; Qwen3 adds a norm to each head's queries and keys.
"""

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


def read_llama(hf: Any) -> Decoder:
    """Read a ``LlamaForCausalLM`` or a model whose modules have the same names.

    Raises:
        CircuitlapseError: If its rotary embedding changes with the prompt's length.
    """
    config, body = hf.config, hf.model
    attention, mlp = [], []
    for block in body.layers:
        ours = block.self_attn
        projections = (ours.q_proj, ours.k_proj, ours.v_proj)
        biases = [bias for bias in map(read_bias, projections) if bias is not None]
        attention.append(
            Attention(
                norm=read_norm(block.input_layernorm),
                weights=tuple(map(read_weight, projections)),
                biases=tuple(biases) or None,
                W_O=read_weight(ours.o_proj).unflatten(0, (config.num_attention_heads, -1)),
                out_bias=read_bias(ours.o_proj),
                scale=ours.scaling,
                q_norm=read_norm(ours.q_norm) if hasattr(ours, "q_norm") else None,
                k_norm=read_norm(ours.k_norm) if hasattr(ours, "k_norm") else None,
            )
        )
        own, norm = block.mlp, block.post_attention_layernorm
        mlp.append(read_mlp(norm, own.up_proj, own.down_proj, own.act_fn, own.gate_proj))
    return Decoder(
        W_E=body.embed_tokens.weight.detach(),
        W_pos=None,
        rotary=read_rotary(body.rotary_emb),
        attention=tuple(attention),
        mlp=tuple(mlp),
        norm=read_norm(body.norm),
        W_U=hf.get_output_embeddings().weight.detach(),
        # The sliding window has no effect on prompts that fit into it.
        n_positions=min(
            config.max_position_embeddings, getattr(config, "sliding_window", None) or 2**62
        ),
    )

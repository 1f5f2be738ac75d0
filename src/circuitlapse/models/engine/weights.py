"""Which part of which parameter belongs to which component of a model.

Weights are stored per layer and fused over heads; causal questions are asked per head. Another
family is added by one layout here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_name, mlp_name

SHARED = "shared"
"""Component name of everything that belongs to no head and no MLP: embeddings, normalisations, the
attention's output biases, which all heads share, and keys and values that several heads share."""


@dataclass(frozen=True)
class Piece:
    """A part of one parameter."""

    parameter: str  # its name in named_parameters()
    index: tuple[slice, ...]  # one per dimension
    component: str  # a node such as a0.h3 or m0, or shared
    sharers: tuple[str, ...] = ()  # the heads whose keys or values these are, if several
    slot: str = ""  # q, k, v or o (output) in a head, o for an MLP's output weights and bias


_Owners = list[tuple[tuple[str, ...], str]]  # the heads that share a part, and their slot


@dataclass(frozen=True)
class _Layout:
    """Where a family keeps its parameters, by the beginning of their names.

    Attributes:
        blocks: Before a block's number.
        outside: Embeddings, the last normalisation, and an unembedding that is not tied.
        shared: In a block, what belongs to no head and no MLP.
        mlp_out: In a block, the MLP's output weights and bias.
        heads: Given a module of a block, weight or bias, the names of the block's heads, and the
            config, returns which axis is divided evenly among whom; None for any other module.
    """

    blocks: str
    outside: tuple[str, ...]
    shared: tuple[str, ...]
    mlp_out: str
    heads: Callable[[str, str, list[str], Any], tuple[int, _Owners] | None]


def component_pieces(hf: Any) -> list[Piece]:
    """Divide every parameter of a ``transformers`` model among its components.

    Tied parameters appear once. Every number is in exactly one piece.

    Raises:
        CircuitlapseError: If the family or one of its parameters is unknown.
    """
    family = hf.config.model_type
    if family not in _LAYOUTS:
        raise CircuitlapseError(
            "the weights of this family cannot be divided among heads yet",
            got=family,
            fix=f"Supported model types: {', '.join(sorted(_LAYOUTS))}",
        )
    return [
        piece
        for name, parameter in hf.named_parameters()
        for piece in _divide(_LAYOUTS[family], name, tuple(parameter.shape), hf.config)
    ]


def _divide(layout: _Layout, name: str, shape: tuple[int, ...], config: Any) -> Iterator[Piece]:
    whole = tuple(slice(0, size) for size in shape)
    number, _, rest = name.removeprefix(layout.blocks).partition(".")
    if not name.startswith(layout.blocks):
        if not name.startswith(layout.outside):
            raise _unknown(name)
        yield Piece(name, whole, SHARED)
        return
    layer, (module, _, kind) = int(number), rest.rpartition(".")
    heads = [head_name(layer, head) for head in range(config.num_attention_heads)]
    if rest.startswith("mlp."):
        slot = "o" if rest.startswith(layout.mlp_out) else ""
        yield Piece(name, whole, mlp_name(layer), slot=slot)
    elif divided := layout.heads(module, kind, heads, config):
        axis, owners = divided
        size = shape[axis] // len(owners)
        for number, (sharers, slot) in enumerate(owners):
            part = slice(number * size, (number + 1) * size)
            index = (*whole[:axis], part, *whole[axis + 1 :])
            if len(sharers) == 1:
                yield Piece(name, index, sharers[0], slot=slot)
            else:
                yield Piece(name, index, SHARED, sharers, slot)
    elif rest.startswith(layout.shared):
        yield Piece(name, whole, SHARED)
    else:
        raise _unknown(name)


def _unknown(name: str) -> CircuitlapseError:
    return CircuitlapseError(
        "this parameter belongs to no known component",
        got=name,
        fix="Use a plain model of its family, without adapters or cross-attention",
    )


def _output(heads: list[str]) -> _Owners:
    return [((head,), "o") for head in heads]


def _gpt2_heads(
    module: str, kind: str, heads: list[str], config: Any
) -> tuple[int, _Owners] | None:
    if module == "attn.c_attn":  # [in, out], or [out]: queries, then keys, then values, by head
        return int(kind == "weight"), [((head,), slot) for slot in "qkv" for head in heads]
    if (module, kind) == ("attn.c_proj", "weight"):  # [in, out]
        return 0, _output(heads)
    return None


def _gpt_neox_heads(
    module: str, kind: str, heads: list[str], config: Any
) -> tuple[int, _Owners] | None:
    if module == "attention.query_key_value":  # each head's query, key and value together
        return 0, [((head,), slot) for head in heads for slot in "qkv"]
    return (1, _output(heads)) if (module, kind) == ("attention.dense", "weight") else None


def _llama_heads(
    module: str, kind: str, heads: list[str], config: Any
) -> tuple[int, _Owners] | None:
    if module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        slot = module.removeprefix("self_attn.")[0]
        n = 1 if slot == "q" else len(heads) // config.num_key_value_heads
        return 0, [(tuple(heads[at : at + n]), slot) for at in range(0, len(heads), n)]
    return (1, _output(heads)) if (module, kind) == ("self_attn.o_proj", "weight") else None


_LLAMA = _Layout(
    blocks="model.layers.",
    outside=("model.embed_tokens.", "model.norm.", "lm_head."),
    shared=("input_layernorm.", "post_attention_layernorm.", "self_attn."),
    mlp_out="mlp.down_proj.",
    heads=_llama_heads,
)
_LAYOUTS = {
    "gpt2": _Layout(
        blocks="transformer.h.",
        outside=("transformer.w", "transformer.ln_f.", "lm_head."),
        shared=("ln_1.", "ln_2.", "attn.c_proj.bias"),
        mlp_out="mlp.c_proj.",
        heads=_gpt2_heads,
    ),
    "gpt_neox": _Layout(
        blocks="gpt_neox.layers.",
        outside=("gpt_neox.embed_in.", "gpt_neox.final_layer_norm.", "embed_out.", "lm_head."),
        shared=("input_layernorm.", "post_attention_layernorm.", "attention.dense.bias"),
        mlp_out="mlp.dense_4h_to_h.",
        heads=_gpt_neox_heads,
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}

"""Which part of which parameter belongs to which component of a model.

Weights are stored per layer and fused over heads; causal questions are asked per head. Another
family is added by one function here.
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
    """A part of one parameter.

    Attributes:
        parameter: Its name among the model's ``named_parameters``.
        index: Slices that select the part, one per dimension.
        component: A node such as ``a0.h3`` or ``m0``, or ``shared``.
        sharers: The heads whose keys or values these are, where several share them.
        slot: What the part does in a head (``q``, ``k``, ``v`` or ``o``); in an MLP, ``o`` for what
            its output is linear in; else empty.
    """

    parameter: str
    index: tuple[slice, ...]
    component: str
    sharers: tuple[str, ...] = ()
    slot: str = ""


def component_pieces(hf: Any) -> list[Piece]:
    """Divide every parameter of a ``transformers`` model among its components.

    Tied parameters appear once. Every number is in exactly one piece.

    Raises:
        CircuitlapseError: If the family or one of its parameters is unknown.
    """
    family = hf.config.model_type
    if family not in _FAMILIES:
        raise CircuitlapseError(
            "the weights of this family cannot be divided among heads yet",
            got=family,
            fix=f"Supported model types: {', '.join(sorted(_FAMILIES))}",
        )
    divide = _FAMILIES[family]
    return [
        Piece(name, index, owner, slot=slot)
        if isinstance(owner, str)
        else Piece(name, index, SHARED, owner, slot)
        for name, parameter in hf.named_parameters()
        for index, owner, slot in divide(name, tuple(parameter.shape), hf.config)
    ]


# The owner of a part is a component, or all the heads that share it; then comes the slot.
_Parts = Iterator[tuple[tuple[slice, ...], str | tuple[str, ...], str]]


def _gpt2(name: str, shape: tuple[int, ...], config: Any) -> _Parts:
    everything = tuple(slice(0, size) for size in shape)
    parts = name.split(".")
    if parts[:2] != ["transformer", "h"]:
        # Embeddings, the last normalisation, and an output embedding where it is not tied.
        known = name.startswith(("transformer.w", "transformer.ln_f.", "lm_head."))
        yield everything, SHARED if known else _unknown(name), ""
        return
    layer, module = int(parts[2]), ".".join(parts[3:])
    width, n_heads = config.hidden_size, config.num_attention_heads
    d_head = width // n_heads
    if module in ("attn.c_attn.weight", "attn.c_attn.bias"):
        # The last dimension holds queries, then keys, then values, each by head.
        for head in range(n_heads):
            for slot, start in zip("qkv", range(0, 3 * width, width), strict=True):
                own = slice(start + head * d_head, start + (head + 1) * d_head)
                yield (*everything[:-1], own), head_name(layer, head), slot
    elif module == "attn.c_proj.weight":
        # Stored as [in, out]: a head's W_O is a run of rows.
        yield from _rows(everything, layer, n_heads, "o")
    elif parts[3] == "mlp":
        yield everything, mlp_name(layer), _in_mlp(parts, "c_proj")
    elif parts[3] in ("ln_1", "ln_2") or module == "attn.c_proj.bias":
        yield everything, SHARED, ""
    else:
        _unknown(name)


def _gpt_neox(name: str, shape: tuple[int, ...], config: Any) -> _Parts:
    everything = tuple(slice(0, size) for size in shape)
    parts = name.split(".")
    if parts[:2] != ["gpt_neox", "layers"]:
        known = name.startswith(
            ("gpt_neox.embed_in.", "gpt_neox.final_layer_norm.", "embed_out.", "lm_head.")
        )
        yield everything, SHARED if known else _unknown(name), ""
        return
    layer, module = int(parts[2]), ".".join(parts[3:])
    if module.startswith("attention.query_key_value."):
        # Each head's query, key and value rows lie together.
        d_head = everything[0].stop // (3 * config.num_attention_heads)
        for head in range(config.num_attention_heads):
            for number, slot in enumerate("qkv", start=3 * head):
                own = slice(number * d_head, (number + 1) * d_head)
                yield (own, *everything[1:]), head_name(layer, head), slot
    elif module == "attention.dense.weight":
        yield from _columns(everything, layer, config.num_attention_heads)
    elif parts[3] == "mlp":
        yield everything, mlp_name(layer), _in_mlp(parts, "dense_4h_to_h")
    elif parts[3].endswith("layernorm") or module == "attention.dense.bias":
        yield everything, SHARED, ""
    else:
        _unknown(name)


def _llama(name: str, shape: tuple[int, ...], config: Any) -> _Parts:
    everything = tuple(slice(0, size) for size in shape)
    parts = name.split(".")
    if parts[:2] != ["model", "layers"]:
        known = name.startswith(("model.embed_tokens.", "model.norm.", "lm_head."))
        yield everything, SHARED if known else _unknown(name), ""
        return
    layer, module = int(parts[2]), ".".join(parts[3:-1])
    n_heads = config.num_attention_heads
    if module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        n_own = n_heads if module == "self_attn.q_proj" else config.num_key_value_heads
        yield from _rows(everything, layer, n_heads, module[len("self_attn.")], n_own)
    elif module == "self_attn.o_proj" and parts[-1] == "weight":
        yield from _columns(everything, layer, n_heads)
    elif parts[3] == "mlp":
        yield everything, mlp_name(layer), _in_mlp(parts, "down_proj")
    elif parts[3].endswith("layernorm") or parts[3] == "self_attn":
        yield everything, SHARED, ""
    else:
        _unknown(name)


def _in_mlp(parts: list[str], output: str) -> str:
    return "o" if parts[4] == output else ""


def _rows(
    everything: tuple[slice, ...], layer: int, n_heads: int, slot: str, n_runs: int | None = None
) -> _Parts:
    """Give each head, or each group of heads, its rows of a weight or bias."""
    n_runs = n_runs or n_heads
    size, sharing = everything[0].stop // n_runs, n_heads // n_runs
    for run in range(n_runs):
        heads = tuple(head_name(layer, run * sharing + head) for head in range(sharing))
        owner = heads if sharing > 1 else heads[0]
        yield (slice(run * size, (run + 1) * size), *everything[1:]), owner, slot


def _columns(everything: tuple[slice, ...], layer: int, n_heads: int) -> _Parts:
    """Give each head its columns of a weight."""
    size = everything[1].stop // n_heads
    for head in range(n_heads):
        own = slice(head * size, (head + 1) * size)
        yield (everything[0], own), head_name(layer, head), "o"


def _unknown(name: str) -> str:
    raise CircuitlapseError(
        "this parameter belongs to no known component",
        got=name,
        fix="Use a plain model of its family, without adapters or cross-attention",
    )


_FAMILIES: dict[str, Callable[[str, tuple[int, ...], Any], _Parts]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
}

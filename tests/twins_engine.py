"""Slow literal twins of the engine: every writer and reader spelled out, one prompt at a time."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from circuitlapse.models.engine.circuit import Graph
from circuitlapse.prompts.pairs import PromptPairs


def tiny_gpt2(
    seed: int = 0, layers: int = 2, heads: int = 3, vocab: int = 23, **options: Any
) -> Any:
    """A small GPT-2 in which nothing is zero: biases and norms are random too."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers,
        n_head=heads,
        n_embd=4 * heads,
        n_positions=16,
        vocab_size=vocab,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    return _filled(GPT2LMHeadModel(config))


def _filled(model: Any) -> Any:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_norm = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(is_norm + 0.35 * torch.randn_like(weight))
    return model.eval()


FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2"},
    "pythia": {"model_type": "gpt_neox", "rotary_pct": 0.5, "hidden_size": 16},
    "sequential gpt-neox": {"model_type": "gpt_neox", "use_parallel_residual": False},
    "llama": {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2},
    "tied llama": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "num_key_value_heads": 1, "sliding_window": 16},
    "qwen2": {"model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 6},
}


def tiny(family: str, seed: int = 0, **options: Any) -> Any:
    """A small model of a family in which nothing is zero; ``options`` go to its config."""
    torch.manual_seed(seed)
    settings = (
        {
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "hidden_size": 8,
            "vocab_size": 23,
            "intermediate_size": 12,
            "max_position_embeddings": 32,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
            "attention_dropout": 0.0,
        }
        | FAMILIES[family]
        | options
    )
    if family == "gpt2":
        del settings["intermediate_size"], settings["attention_dropout"]
    return _filled(AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)))


def random_pairs(seed: int, n: int = 5, longest: int = 8, vocab: int = 23) -> PromptPairs:
    """Prompts of different lengths that differ from some position on, here and there."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    clean, lengths = integers(0, vocab, n, longest), integers(2, longest + 1, n)
    index = torch.arange(longest)
    first = (torch.rand(n, generator=generator) * lengths).long()
    changes = (index == first[:, None]) | ((index > first[:, None]) & (integers(0, 3, n, 1) == 0))
    corrupt = torch.where(changes, (clean + integers(1, vocab, n, longest)) % vocab, clean)
    answers = integers(0, vocab, n)
    distractors = (answers[:, None] + 1 + torch.arange(2)) % vocab
    mask = (index < lengths[:, None]).long()
    return PromptPairs.from_tensors(clean, corrupt, answers, distractors, mask)


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


@dataclass
class Block:
    """One block of a ``transformers`` model, taken apart by hand."""

    norm: Callable[[Tensor], Tensor]
    project: dict[str, Callable[[Tensor], Tensor]]  # "q", "k", "v": [pos, heads × d_head]
    place: Callable[[Tensor], Tensor]  # rotation of one head's queries or keys
    W_O: Tensor  # [heads × d_head, d_model]
    bias: Tensor
    mlp_norm: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    scale: float
    head_norms: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


def _gpt2_block(hf: Any, layer: int) -> Block:
    block, d_model = hf.transformer.h[layer], hf.config.n_embd

    def slot(index: int) -> Callable[[Tensor], Tensor]:
        rows = slice(index * d_model, (index + 1) * d_model)
        return lambda x: x @ block.attn.c_attn.weight[:, rows] + block.attn.c_attn.bias[rows]

    return Block(
        block.ln_1,
        {name: slot(index) for index, name in enumerate("qkv")},
        lambda x: x,
        block.attn.c_proj.weight,
        block.attn.c_proj.bias,
        block.ln_2,
        block.mlp,
        (d_model // hf.config.n_head) ** -0.5,
    )


def _gpt_neox_block(hf: Any, layer: int) -> Block:
    block = hf.gpt_neox.layers[layer]
    fused, d_head = block.attention.query_key_value, block.attention.head_size

    def slot(index: int) -> Callable[[Tensor], Tensor]:
        def project(x: Tensor) -> Tensor:
            return fused(x).unflatten(-1, (-1, 3, d_head))[:, :, index].flatten(1)

        return project

    return Block(
        block.input_layernorm,
        {name: slot(index) for index, name in enumerate("qkv")},
        _rotation(hf.gpt_neox.rotary_emb, d_head),
        block.attention.dense.weight.T,
        block.attention.dense.bias,
        block.post_attention_layernorm,
        block.mlp,
        d_head**-0.5,
    )


def _llama_block(hf: Any, layer: int) -> Block:
    block = hf.model.layers[layer]
    ours, d_head = block.self_attn, block.self_attn.head_dim
    norms = {"q": ours.q_norm, "k": ours.k_norm} if hasattr(ours, "q_norm") else {}
    return Block(
        block.input_layernorm,
        {"q": ours.q_proj, "k": ours.k_proj, "v": ours.v_proj},
        _rotation(hf.model.rotary_emb, d_head),
        ours.o_proj.weight.T,
        torch.zeros(()),
        block.post_attention_layernorm,
        block.mlp,
        d_head**-0.5,
        norms,
    )


def _rotation(module: Any, d_head: int) -> Callable[[Tensor], Tensor]:
    """Turn pairs of dimensions as complex numbers."""

    def rotate(x: Tensor) -> Tensor:
        half = len(module.inv_freq)
        angles = torch.arange(len(x))[:, None] * module.inv_freq.double()
        pairs = torch.complex(x[:, :half], x[:, half : 2 * half])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag, x[:, 2 * half :]], dim=1)

    assert 2 * len(module.inv_freq) <= d_head
    return rotate


_BLOCKS = {"gpt2": _gpt2_block, "gpt_neox": _gpt_neox_block}


class Literal:
    """A model written down edge by edge, in float64, on one prompt without padding."""

    def __init__(self, hf: PreTrainedModel) -> None:
        self.hf: Any = copy.deepcopy(hf).double().eval()
        config = self.config = self.hf.config
        read = _BLOCKS.get(config.model_type, _llama_block)
        self.blocks = [read(self.hf, layer) for layer in range(config.num_hidden_layers)]
        self.graph = Graph(
            config.num_hidden_layers,
            config.num_attention_heads,
            getattr(config, "num_key_value_heads", 0),
            getattr(config, "use_parallel_residual", False),
        )
        body = self.hf.base_model
        self.norm = next(
            getattr(body, name)
            for name in ("ln_f", "final_layer_norm", "norm")
            if hasattr(body, name)
        )

    def prompts(self, pairs: PromptPairs):
        """Yield (clean tokens, corrupt tokens, metric) per prompt."""
        for row in range(len(pairs)):
            length = int(pairs.lengths[row])

            def metric(logits: Tensor, row: int = row) -> Tensor:
                return logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean()

            yield pairs.clean[row, :length], pairs.corrupt[row, :length], metric

    def embed(self, tokens: Tensor) -> Tensor:
        embedded = self.hf.get_input_embeddings()(tokens)
        if self.config.model_type == "gpt2":
            embedded = embedded + self.hf.transformer.wpe(torch.arange(len(tokens)))
        return embedded

    def head(
        self,
        layer: int,
        head: int,
        x: dict[str, Tensor],
        change: Callable[[str, Tensor], Tensor] = lambda _, value: value,
    ) -> Tensor:
        """What a head adds, given the residual stream at its query, key and value inputs.

        ``change(what, value)`` may replace the head's ``q``, ``k``, ``v`` or ``pattern``.
        """
        block, n_heads = self.blocks[layer], self.config.num_attention_heads
        d_head = len(block.W_O) // n_heads
        mixed = {}
        for name in "qkv":
            which = head if name == "q" else self.graph.kv_head(head)
            columns = slice(which * d_head, (which + 1) * d_head)
            value = change(name, block.project[name](block.norm(x[name]))[:, columns])
            if name != "v":
                value = block.place(block.head_norms.get(name, lambda y: y)(value))
            mixed[name] = value
        causal = torch.ones(len(x["q"]), len(x["q"])).tril().bool()
        products = (mixed["q"] @ mixed["k"].T * block.scale).masked_fill(~causal, -torch.inf)
        pattern = change("pattern", products.softmax(dim=-1))
        return pattern @ mixed["v"] @ block.W_O[head * d_head : (head + 1) * d_head]

    def run(
        self, embedding: Tensor, reading: Callable[[str, dict[str, Tensor]], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the last logits and every writer's output.

        ``reading(reader, outputs)`` chooses what a reader gets from the writers before it; the
        attention's output biases, which no writer owns, are added to it here.
        """
        outputs, biases = {"input": embedding}, torch.zeros(())
        for layer, block in enumerate(self.blocks):
            before = dict(outputs)
            for head in range(self.config.num_attention_heads):
                inputs = {}
                for name in "qkv":
                    which = head if name == "q" else self.graph.kv_head(head)
                    inputs[name] = reading(f"a{layer}.h{which}<{name}>", before) + biases
                outputs[f"a{layer}.h{head}"] = self.head(layer, head, inputs)
            if self.graph.parallel:
                mid = reading(f"m{layer}", before) + biases
            else:
                mid = reading(f"m{layer}", outputs) + biases + block.bias
            outputs[f"m{layer}"] = block.mlp(block.mlp_norm(mid))
            biases = biases + block.bias
        final = self.norm(reading("logits", outputs) + biases)
        return self.hf.get_output_embeddings()(final[-1]), outputs

    def plain(self, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole model."""
        return self.run(self.embed(tokens), lambda _, outputs: _sum(outputs.values()))

    def circuit(self, clean: Tensor, corrupt: Tensor, edges: set[tuple[str, str]]) -> Tensor:
        """Edges in the circuit carry what it computes, all others the corrupt run's values."""
        _, unmoved = self.plain(corrupt)

        def reading(reader: str, outputs: dict[str, Tensor]) -> Tensor:
            return _sum(
                outputs[writer] if (writer, reader) in edges else unmoved[writer]
                for writer in outputs
            )

        return self.run(self.embed(clean), reading)[0]

    def scores(self, pairs: PromptPairs, points: list[float]) -> Tensor:
        """Gradient attribution by its definition; points are the shares of the clean embedding."""
        graph = self.graph
        total = torch.zeros(len(pairs), len(graph.writers), len(graph.readers), dtype=torch.float64)
        for row, (clean, corrupt, metric) in enumerate(self.prompts(pairs)):
            with torch.no_grad():
                _, before = self.plain(clean)
                _, after = self.plain(corrupt)
            for point in points:
                probes = {
                    name: torch.zeros_like(before["input"]).requires_grad_()
                    for name in graph.readers
                }

                def reading(reader: str, outputs: dict[str, Tensor], probes=probes) -> Tensor:
                    return _sum(outputs.values()) + probes[reader]

                mixed = self.embed(corrupt) + point * (self.embed(clean) - self.embed(corrupt))
                loss = -metric(self.run(mixed, reading)[0])
                gradients = torch.autograd.grad(loss, list(probes.values()))
                for reader, gradient in enumerate(gradients):
                    for writer, name in enumerate(graph.writers):
                        if graph.edges[writer, reader]:
                            change = after[name] - before[name]
                            total[row, writer, reader] += (change * gradient).sum() / len(points)
        return total

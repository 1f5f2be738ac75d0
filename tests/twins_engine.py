"""Slow literal twins of the engine: every writer and reader spelled out, one prompt at a time."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitlapse.models import Graph
from circuitlapse.tasks.pairs import PromptPairs


def tiny_gpt2(
    seed: int = 0, layers: int = 2, heads: int = 3, vocab: int = 23, **options: Any
) -> Any:
    """A small GPT-2 in which nothing is zero: biases and norms are random too."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=layers, n_head=heads, n_embd=4 * heads, n_positions=16, vocab_size=vocab,
        bos_token_id=None, eos_token_id=None, **options,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "ln" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.35 * torch.randn_like(weight))
    return model


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


class Literal:
    """GPT-2 written down edge by edge, in float64, on one prompt without padding."""

    def __init__(self, hf: GPT2LMHeadModel) -> None:
        self.hf: Any = copy.deepcopy(hf).double().eval()
        self.config = self.hf.config
        self.graph = Graph(self.config.n_layer, self.config.n_head)

    def prompts(self, pairs: PromptPairs):
        """Yield (clean tokens, corrupt tokens, metric) per prompt."""
        for row in range(len(pairs)):
            length = int(pairs.lengths[row])

            def metric(logits: Tensor, row: int = row) -> Tensor:
                return logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean()

            yield pairs.clean[row, :length], pairs.corrupt[row, :length], metric

    def embed(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(len(tokens))
        return self.hf.transformer.wte(tokens) + self.hf.transformer.wpe(positions)

    def run(
        self, embedding: Tensor, reading: Callable[[str, dict[str, Tensor]], Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the last logits and every writer's output.

        ``reading(reader, outputs)`` chooses what a reader gets from the writers before it; the
        attention's output biases, which no writer owns, are added to it here.
        """
        outputs, biases = {"input": embedding}, torch.zeros(())
        n_heads, d_model = self.config.n_head, self.config.n_embd
        width, d_head = len(embedding), d_model // n_heads
        causal = torch.ones(width, width).tril().bool()
        for layer, block in enumerate(self.hf.transformer.h):
            heads = {}
            for head in range(n_heads):
                mixed = []
                for slot, name in enumerate("qkv"):
                    x = reading(f"a{layer}.h{head}<{name}>", outputs) + biases
                    columns = slice(
                        slot * d_model + head * d_head, slot * d_model + (head + 1) * d_head
                    )
                    weight, bias = (
                        block.attn.c_attn.weight[:, columns],
                        block.attn.c_attn.bias[columns],
                    )
                    mixed.append(block.ln_1(x) @ weight + bias)
                q, k, v = mixed
                pattern = (q @ k.T / d_head**0.5).masked_fill(~causal, -torch.inf).softmax(dim=-1)
                rows = slice(head * d_head, (head + 1) * d_head)
                heads[f"a{layer}.h{head}"] = pattern @ v @ block.attn.c_proj.weight[rows]
            outputs.update(heads)
            biases = biases + block.attn.c_proj.bias
            outputs[f"m{layer}"] = block.mlp(block.ln_2(reading(f"m{layer}", outputs) + biases))
        final = self.hf.transformer.ln_f(reading("logits", outputs) + biases)
        return self.hf.lm_head(final[-1]), outputs

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

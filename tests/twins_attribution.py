"""Slow literal twins of the attribution methods beyond EAP: one prompt, one edge, one node."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from circuitlapse.prompts.pairs import PromptPairs
from twins_engine import Literal

Outputs = dict[str, Tensor]


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(tensors)).sum(dim=0)


def everywhere(pairs: PromptPairs) -> list[Tensor]:
    """Every position of every prompt, as a mask that leaves none out."""
    return [torch.ones(length, 1, dtype=torch.bool) for length in pairs.lengths.tolist()]


def exact(twin: Literal, pairs: PromptPairs, at: list[Tensor] | None = None) -> Tensor:
    """Each edge by a whole run in which its reader alone gets its writer's corrupt output.

    ``at`` holds the positions that it gets it at, one mask ``[pos, 1]`` per prompt.
    """
    at = at or everywhere(pairs)
    graph = twin.graph
    effects = torch.zeros(len(pairs), *graph.edges.shape, dtype=torch.float64)
    with torch.no_grad():
        for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
            unmoved = twin.plain(corrupt)[1]
            before = metric(twin.plain(clean)[0])
            for i, j in graph.edges.nonzero().tolist():
                edge = (graph.writers[i], graph.readers[j])

                def reading(
                    reader: str, outputs: Outputs, edge=edge, unmoved=unmoved, here=at[row]
                ) -> Tensor:
                    return _sum(
                        torch.where(here, unmoved[name], value) if (name, reader) == edge else value
                        for name, value in outputs.items()
                    )

                effects[row, i, j] = before - metric(twin.run(twin.embed(clean), reading)[0])
    return effects


def gradients(
    twin: Literal, metric: Callable[[Tensor], Tensor], embedding: Tensor, held: Outputs
) -> dict[str, Tensor]:
    """Gradient of −metric at each reader's input, in a run with some outputs held."""
    probes = {name: torch.zeros_like(embedding).requires_grad_() for name in twin.graph.readers}

    def reading(reader: str, outputs: Outputs) -> Tensor:
        return _sum(held.get(name, value) for name, value in outputs.items()) + probes[reader]

    loss = -metric(twin.run(embedding, reading)[0])
    found = torch.autograd.grad(loss, list(probes.values()), materialize_grads=True)
    return dict(zip(probes, found, strict=True))


def products(twin: Literal, change: Outputs, found: dict[str, Tensor]) -> Tensor:
    """Change times gradient, of every edge at every position: [pos, writers, readers]."""
    graph = twin.graph
    length = len(change["input"])
    scores = torch.zeros(length, *graph.edges.shape, dtype=torch.float64)
    for i, j in graph.edges.nonzero().tolist():
        scores[:, i, j] = (change[graph.writers[i]] * found[graph.readers[j]]).sum(dim=1)
    return scores


def changes(twin: Literal, clean: Tensor, corrupt: Tensor) -> tuple[Outputs, Outputs]:
    """What every writer puts out in the clean run, and what counterfactual adds to it."""
    with torch.no_grad():
        before, after = twin.plain(clean)[1], twin.plain(corrupt)[1]
    return before, {name: after[name] - before[name] for name in before}


def by_position(twin: Literal, pairs: PromptPairs, points: list[float]) -> list[Tensor]:
    """EAP and EAP-IG-inputs with their sum over positions left out, per prompt."""
    found = []
    for clean, corrupt, metric in twin.prompts(pairs):
        _, change = changes(twin, clean, corrupt)
        start, end = twin.embed(corrupt).detach(), twin.embed(clean).detach()
        runs = [gradients(twin, metric, start + point * (end - start), {}) for point in points]
        found.append(torch.stack([products(twin, change, run) for run in runs]).mean(dim=0))
    return found


def activations(twin: Literal, pairs: PromptPairs, steps: int) -> Tensor:
    """EAP-IG-activations: a run for every node and step, its output held in between."""
    layers = range(twin.graph.n_layers)
    nodes = [["input"]]
    for layer in layers:
        nodes.append([f"a{layer}.h{head}" for head in range(twin.graph.n_heads)])
        nodes.append([f"m{layer}"])
    total = []
    for clean, corrupt, metric in twin.prompts(pairs):
        before, change = changes(twin, clean, corrupt)
        scores = torch.zeros((), dtype=torch.float64)
        for node in nodes:
            for k in range(1, steps + 1):
                held = {name: before[name] + (1 - k / steps) * change[name] for name in node}
                run = gradients(twin, metric, twin.embed(clean).detach(), held)
                scores = scores + products(twin, change, run).sum(dim=0)
        total.append(scores / (len(nodes) * steps))
    return torch.stack(total)


class Probed(Literal):
    """A model whose attention weights can be differentiated."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__(hf)
        self.patterns: dict[tuple[int, int], Tensor] = {}

    def head(self, layer, head, x, change=lambda _, value: value) -> Tensor:
        def watched(what: str, value: Tensor) -> Tensor:
            if what == "pattern":
                value = self.patterns[layer, head] = value.clone().requires_grad_()
            return value

        return super().head(layer, head, x, watched)

    def pattern(self, layer: int, head: int, x: Outputs) -> Tensor:
        """The attention weights that given inputs lead to."""
        seen = []

        def look(what: str, value: Tensor) -> Tensor:
            if what == "pattern":
                seen.append(value)
            return value

        super().head(layer, head, x, look)
        return seen[0]


def qk_fixed(twin: Probed, pairs: PromptPairs, at: list[Tensor] | None = None) -> Tensor:
    """EAP whose scores of queries and keys are (A corrupt − A clean) · ∂L/∂A, per prompt.

    ``at`` holds the positions that are corrupted, one mask ``[pos, 1]`` per prompt.
    """
    graph, total = twin.graph, []
    at = at or everywhere(pairs)
    for (clean, corrupt, metric), here in zip(twin.prompts(pairs), at, strict=True):
        _, change = changes(twin, clean, corrupt)
        change = {name: value * here for name, value in change.items()}
        inputs: dict[str, Tensor] = {}
        embedding = twin.embed(clean).detach().requires_grad_()

        def reading(reader: str, outputs: Outputs, inputs=inputs) -> Tensor:
            inputs[reader] = _sum(iter(outputs.values()))
            return inputs[reader]

        twin.patterns.clear()
        loss = -metric(twin.run(embedding, reading)[0])
        found = torch.autograd.grad(loss, list(twin.patterns.values()))
        at_pattern = dict(zip(twin.patterns, found, strict=True))
        scores = products(
            twin, change, gradients(twin, metric, twin.embed(clean).detach(), {})
        ).sum(dim=0)
        biases = torch.zeros(())
        for layer in range(graph.n_layers):
            writers = range(graph.n_before_attention(layer))
            for slot in "qk":
                columns = graph.slot_readers(layer, slot)
                scores[:, columns] = 0
                for head in range(graph.n_heads):
                    which = head if slot == "q" else graph.kv_head(head)
                    base = inputs[f"a{layer}.h{head}<q>"].detach() + biases
                    with torch.no_grad():
                        as_is = twin.pattern(layer, head, dict.fromkeys("qkv", base))
                        for writer in writers:
                            x = dict.fromkeys("qkv", base)
                            x[slot] = base + change[graph.writers[writer]]
                            moved = twin.pattern(layer, head, x) - as_is
                            effect = (moved * at_pattern[layer, head]).sum()
                            scores[writer, columns.start + which] += effect
            biases = biases + twin.blocks[layer].bias
        total.append(scores)
    return torch.stack(total)


def written_by(twin: Literal) -> list[Any]:
    """The module of each MLP that maps its hidden neurons to the stream."""
    names = ("c_proj", "dense_4h_to_h", "down_proj")
    return [
        next(getattr(block.mlp, name) for name in names if hasattr(block.mlp, name))
        for block in twin.blocks
    ]


def hidden(twin: Literal, tokens: Tensor) -> list[Tensor]:
    """The hidden neurons of each layer in a plain run."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
        for block in written_by(twin)
    ]
    with torch.no_grad():
        twin.plain(tokens)
    for hook in hooks:
        hook.remove()
    return seen


def held_neurons(twin: Literal, pairs: PromptPairs, steps: int) -> Tensor:
    """EAP-IG-activations of neurons: their change times the gradient at all who read their MLP."""
    layers, graph, total = range(twin.graph.n_layers), twin.graph, []
    nodes = [["input"]]
    for layer in layers:
        nodes.append([f"a{layer}.h{head}" for head in range(graph.n_heads)])
        nodes.append([f"m{layer}"])
    for clean, corrupt, metric in twin.prompts(pairs):
        before, change = changes(twin, clean, corrupt)
        ours, theirs = hidden(twin, clean), hidden(twin, corrupt)
        scores = torch.zeros(len(ours), ours[0].shape[-1], dtype=torch.float64)
        for node in nodes:
            for k in range(1, steps + 1):
                held = {name: before[name] + (1 - k / steps) * change[name] for name in node}
                run = gradients(twin, metric, twin.embed(clean).detach(), held)
                for layer, module in enumerate(written_by(twin)):
                    readers = graph.edges[graph.writers.index(f"m{layer}")].nonzero()[:, 0]
                    arriving = _sum(run[graph.readers[index]] for index in readers.tolist())
                    for neuron in range(scores.shape[1]):
                        one = torch.zeros_like(ours[layer])
                        one[:, neuron] = (theirs[layer] - ours[layer])[:, neuron]
                        with torch.no_grad():
                            written = module(one) - module(torch.zeros_like(one))
                        scores[layer, neuron] += (written * arriving).sum()
        total.append(scores / (len(nodes) * steps))
    return torch.stack(total)


def patched_neurons(
    twin: Literal, pairs: PromptPairs, groups: Sequence[tuple[int, Sequence[int]]]
) -> Tensor:
    """Each group's effect by a whole run in which a hook puts in its corrupt activations."""
    effects = torch.zeros(len(pairs), len(groups), dtype=torch.float64)
    for row, (clean, corrupt, metric) in enumerate(twin.prompts(pairs)):
        theirs = hidden(twin, corrupt)
        for index, (layer, group) in enumerate(groups):

            def put(_, arguments, layer=layer, group=group, theirs=theirs):
                given = arguments[0].clone()
                given[:, list(group)] = theirs[layer][:, list(group)]
                return (given,)

            with torch.no_grad():
                before = metric(twin.plain(clean)[0])
                hook = written_by(twin)[layer].register_forward_pre_hook(put)
                effects[row, index] = before - metric(twin.plain(clean)[0])
                hook.remove()
    return effects


def neurons(twin: Literal, pairs: PromptPairs, points: list[float]) -> Tensor:
    """Σ over positions of (h corrupt − h clean) · ∂L/∂h, per prompt and hidden neuron."""
    blocks = written_by(twin)
    seen: list[Tensor] = []

    def look(module, arguments):
        seen.append(arguments[0] if arguments[0].requires_grad else arguments[0].clone())

    hooks = [block.register_forward_pre_hook(look) for block in blocks]

    def seen_in(embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen.clear()
        logits = twin.run(embedding, lambda _, outputs: _sum(iter(outputs.values())))[0]
        return logits, list(seen)

    total = []
    for clean, corrupt, metric in twin.prompts(pairs):
        start, end = twin.embed(corrupt).detach(), twin.embed(clean).detach()
        before, after = seen_in(end)[1], seen_in(start)[1]
        scores = torch.zeros((), dtype=torch.float64)
        for point in points:
            logits, here = seen_in((start + point * (end - start)).requires_grad_())
            found = torch.autograd.grad(-metric(logits), here)
            each = [
                ((a - b).detach() * g).sum(dim=0)
                for a, b, g in zip(after, before, found, strict=True)
            ]
            scores = scores + torch.stack(each) / len(points)
        total.append(scores)
    for hook in hooks:
        hook.remove()
    return torch.stack(total)

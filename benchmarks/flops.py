"""The work that each job cannot do without, in floating-point operations.

Counted are matrix products, two operations per multiplication and addition, by the cheapest way
that we know of; everything elementwise is left out, and so is whatever the definition does not ask
for: weight gradients, logits other than those which the metric reads, columns that a patch cannot
reach under the causal mask, and in the last block whatever is not a key or a value, except at the
prompt's last token. So the share of the machine's peak that a job reaches counts both how fast its
products run and how many needless ones it does.

With D the width of the stream, M = 4 D the MLP's, T tokens and P of them before the first
difference (run once, as both prompts share them), on the C = T − P columns from there on:

    one block                C (8 D² + 4 D M) + attention, 4 D per query and key that it sees
    its backward pass        as much again, and the attention's part twice
    what the writers add     2 D² C per layer: each head's change of z, through W_O
    gradients at the slots   6 D² C per layer: δ through W_Q, W_K and W_V by head
    one edge's score         2 D C
    one edge of a circuit    2 D C; readers of one layer with the same edges share one sum
"""

import torch
from inputs import Shape
from torch import Tensor

from circuitlapse import Circuit, Graph


def forward(shape: Shape) -> float:
    """One run of whole prompts, with all logits of the last token."""
    whole = _run(shape, 0, shape.length) + 2 * shape.d_model * shape.vocab
    return shape.prompts * whole


def eap(shape: Shape) -> float:
    """Clean and corrupt run, one backward pass, and every edge.

    The gradients at the slots sum to the backward pass's own, and are not counted again.
    """
    each = _prefix(shape) + 2 * _run(shape, 0, _width(shape)) + _backward(shape)
    return shape.prompts * (each + _writers(shape) + _edges(shape))


def eap_ig(shape: Shape, steps: int) -> float:
    """Clean run, ``steps`` runs with their backward passes (the first is the corrupt run), edges.

    The norm's rank-one term differs from step to step: 2 D per writer, step and token.
    """
    width, graph = _width(shape), Graph(shape.layers, shape.heads)
    each = _prefix(shape) + (1 + steps) * _run(shape, 0, width) + steps * _backward(shape)
    slots = 6 * shape.d_model**2 * width * shape.layers
    writers = sum(graph.n_before_attention(layer) for layer in range(shape.layers))
    rank_one = 2 * shape.d_model * writers * steps * width
    return shape.prompts * (each + slots + rank_one + _writers(shape) + _edges(shape))


def circuits(shape: Shape, found: list[Circuit]) -> float:
    """Clean run, corrupt run, and each circuit's own heads, MLPs and edges.

    A circuit of all edges is the clean run.
    """
    width = _width(shape)
    each = _prefix(shape) + 2 * _run(shape, 0, width)
    parts = (circuit for circuit in found if circuit.n_edges < circuit.graph.n_edges)
    return shape.prompts * (each + sum(_circuit(shape, circuit) for circuit in parts))


def head_sweep(shape: Shape) -> float:
    """Two runs, then per layer and head the MLP behind it and all later layers."""
    width, d = _width(shape), shape.d_model
    each = _prefix(shape) + 2 * _run(shape, 0, width) + _writers(shape)
    for layer in range(shape.layers):
        columns = width if layer < shape.layers - 1 else 1
        behind = 16 * d**2 * columns + _run(shape, layer + 1, width)
        each += shape.heads * behind
    return shape.prompts * each


def residual_sweep(shape: Shape) -> float:
    """Two runs, then per layer and position that layer and all later ones, from there on."""
    width = _width(shape)
    each = _prefix(shape) + 2 * _run(shape, 0, width)
    for layer in range(shape.layers):
        each += sum(_run(shape, layer, columns) for columns in range(1, width + 1))
    return shape.prompts * each


def exact_edges(shape: Shape) -> float:
    """Two runs, then per edge its reader's node and all that comes after it."""
    width, d, graph = _width(shape), shape.d_model, Graph(shape.layers, shape.heads)
    each = _prefix(shape) + 2 * _run(shape, 0, width)
    per_reader = graph.edges.sum(dim=0)
    head = 2 * d * (d // shape.heads)
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        columns = 1 if last else width
        mlp = 16 * d**2 * columns + _run(shape, layer + 1, width)
        for slot in "qkv":
            read = 1 if last and slot == "q" else width
            one = head * (read + columns) + _attention(shape, columns) / shape.heads
            each += float(per_reader[graph.slot_readers(layer, slot)].sum()) * (one + mlp)
        each += float(per_reader[graph.mlp_reader(layer)]) * mlp
    return shape.prompts * each


def _width(shape: Shape) -> int:
    return shape.length - shape.start


def _attention(shape: Shape, queries: int) -> float:
    """Scores and mixed values at the prompt's last so many positions; each sees all before it."""
    seen = sum(range(shape.length - queries + 1, shape.length + 1))
    return 4 * shape.d_model * seen


def _run(shape: Shape, layer: int, columns: int) -> float:
    """From the input of ``layer`` to the metric, on one prompt's last ``columns``."""
    whole_layers = shape.layers - 1 - layer
    if whole_layers < 0:
        return 0.0
    square = shape.d_model**2
    whole = 24 * square * columns + _attention(shape, columns)
    last = 4 * square * columns + 20 * square + _attention(shape, 1)
    return whole_layers * whole + last


def _prefix(shape: Shape) -> float:
    """Keys and values of the tokens before the first difference, in all layers."""
    if shape.start == 0:
        return 0.0
    square, d = shape.d_model**2, shape.d_model
    seen = shape.start * (shape.start + 1) / 2
    return (shape.layers - 1) * (24 * square * shape.start + 4 * d * seen) + (
        4 * square * shape.start
    )


def _backward(shape: Shape) -> float:
    width = _width(shape)
    again = (shape.layers - 1) * _attention(shape, width) + _attention(shape, 1)
    return _run(shape, 0, width) + again


def _writers(shape: Shape) -> float:
    return 2 * shape.d_model**2 * ((shape.layers - 1) * _width(shape) + 1)


def _edges(shape: Shape) -> float:
    graph = Graph(shape.layers, shape.heads)
    return 2 * shape.d_model * float((graph.edges.sum(dim=0) * _columns(shape, graph)).sum())


def _columns(shape: Shape, graph: Graph) -> Tensor:
    """At how many columns each reader reads anything that matters."""
    columns = torch.full((len(graph.readers),), _width(shape))
    last = shape.layers - 1
    columns[graph.slot_readers(last, "q")] = 1
    columns[graph.mlp_reader(last)] = 1
    columns[-1] = 1
    return columns


def _circuit(shape: Shape, circuit: Circuit) -> float:
    """One prompt's run of a circuit: its edges, and the nodes that take part."""
    graph, mask, d = circuit.graph, circuit.mask, shape.d_model
    columns = _columns(shape, graph)
    total = 2.0 * d * float(mask[:, -1].sum())
    for layer in range(shape.layers):
        width = 1 if layer == shape.layers - 1 else _width(shape)
        for slot in "qkv":
            span = graph.slot_readers(layer, slot)
            read = mask[:, span].any(dim=0)
            total += 2 * d * (d // shape.heads) * float((read * columns[span]).sum())
        # Queries of the last layer aside, which count as if they read everywhere.
        span = graph.attention_readers(layer)
        distinct = torch.unique(mask[:, span], dim=1)
        total += 2 * d * float(distinct.sum()) * _width(shape)
        heads = int(mask[graph.head_writers(layer)].any(dim=1).sum())
        per_head = 2 * d * (d // shape.heads) * width
        total += heads * (per_head + _attention(shape, width) / shape.heads)
        if bool(mask[graph.mlp_writer(layer)].any()):
            total += 16 * d**2 * width
            total += 2 * d * float(mask[:, graph.mlp_reader(layer)].sum()) * width
    return total

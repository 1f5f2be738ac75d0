"""Scores and circuits in the layout that MIB's circuit track and EAP-IG read.

Both write a graph as a table of edges, in JSON or as a file of tensors, with ``cfg`` (``n_layers``,
``n_heads``, ``parallel_attn_mlp``, ``d_model``) in front (Hanna et al. 2024; Mueller et al. 2025):

- ``.json``: ``nodes`` by name (``input``, ``a0.h1``, ``m2``, ``logits``), each with ``in_graph``;
  ``edges`` by name (``input->a0.h1<q>``, ``a0.h1->m2``), each with ``score`` and ``in_graph``.
- ``.pt``: ``src_nodes`` and ``dst_nodes``, the names of the rows and columns of ``edges_scores``
  and ``edges_in_graph``, and ``nodes_in_graph`` by row.

Order, names and sign are those of :class:`~circuitlapse.graph.Graph` and
:class:`~circuitlapse.attribution.scores.Scores`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuitlapse.attribution.scores import Scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import SLOTS
from circuitlapse.models.engine.circuit import Circuit, Graph
from circuitlapse.models.engine.model import Model
from circuitlapse.records.store import replacing


def export_circuit(
    path: Path | str,
    model: Model,
    *,
    scores: Scores | None = None,
    circuit: Circuit | None = None,
) -> Path:
    """Write scores, a circuit or both for MIB's circuit track and EAP-IG.

    With scores alone no edge is in the graph. With a circuit alone its edges have the score 1, all
    others 0. Writing is atomic; an existing file is replaced.

    In that layout every head has its own key and value. With grouped queries, a circuit's shared
    edges are repeated for the heads that take part, which computes the same. A score belongs to all
    these heads together, so scores of such a model cannot be exported.

    Args:
        path: Output file; ``.json`` or ``.pt`` chooses the format.
        model: The model that they belong to.
        scores: From :func:`circuitlapse.attribute`.
        circuit: From ``scores.top(...)`` or your own mask.

    Returns:
        The path.

    Raises:
        CircuitlapseError: If neither is given, one belongs to another graph, the extension is
            unknown, the path is a directory, or the layout cannot hold the scores.
    """
    path, graph = Path(path), model.graph
    if path.suffix not in (".json", ".pt"):
        raise CircuitlapseError(
            "a circuit is exported as .json or .pt",
            got=path.name,
            fix="Change the file's extension to one of them",
        )
    if path.is_dir():
        raise CircuitlapseError(f"{path} is a directory", fix="Name a file in it")
    if scores is None and circuit is None:
        raise CircuitlapseError("there is nothing to export", fix="Pass scores, a circuit or both")
    for name, given in (("scores", scores), ("circuit", circuit)):
        if given is not None and given.graph != graph:
            raise CircuitlapseError(
                f"the {name} and the model differ in shape",
                got=f"{given.graph} for {graph}",
                fix=f"Pass the model of the {name}",
            )
    shared = graph.n_kv_heads != graph.n_heads
    if scores is not None and shared:
        raise CircuitlapseError(
            "MIB's format cannot hold the scores of a model whose heads share keys and values",
            got=f"{graph.n_heads} heads with {graph.n_kv_heads} keys and values",
            fix="Pass circuit= without scores=, or save scores.to_frame()",
        )
    mask = torch.zeros_like(graph.edges) if circuit is None else circuit.mask
    if shared:
        graph, mask = _ungrouped(graph, mask)
    values = mask.float() if scores is None else scores.mean.detach().cpu().float()
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": model.decoder.d_model,
    }
    with replacing(path) as draft:
        if path.suffix == ".json":
            document = _document(cfg, graph, values, mask)
            draft.write_text(json.dumps(document), encoding="utf-8")
        else:
            torch.save(_tensors(cfg, graph, values, mask), draft)
    return path


def _document(cfg: dict[str, Any], graph: Graph, values: Tensor, mask: Tensor) -> dict[str, Any]:
    used = mask.any(dim=1).tolist()
    nodes = {name: {"in_graph": one} for name, one in zip(graph.writers, used, strict=True)}
    nodes["logits"] = {"in_graph": True}
    writers, readers = graph.edges.nonzero().unbind(dim=1)
    listed = zip(
        writers.tolist(),
        readers.tolist(),
        values[writers, readers].tolist(),
        mask[writers, readers].tolist(),
        strict=True,
    )
    edges = {
        f"{graph.writers[writer]}->{graph.readers[reader]}": {"score": score, "in_graph": inside}
        for writer, reader, score, inside in listed
    }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def _tensors(cfg: dict[str, Any], graph: Graph, values: Tensor, mask: Tensor) -> dict[str, Any]:
    # Plain containers and tensors of their own storage: torch.load reads them with weights_only.
    return {
        "cfg": cfg,
        "src_nodes": list(graph.writers),
        "dst_nodes": list(graph.readers),
        "edges_scores": values.clone(),
        "edges_in_graph": mask.clone(),
        "nodes_in_graph": mask.any(dim=1),
    }


def _ungrouped(graph: Graph, mask: Tensor) -> tuple[Graph, Tensor]:
    """Give every head of the circuit a copy of the edges into its shared keys and values."""
    whole = Graph(graph.n_layers, graph.n_heads, parallel=graph.parallel)
    spread = torch.zeros_like(whole.edges)
    owner = torch.tensor([graph.kv_head(head) for head in range(graph.n_heads)])
    for layer in range(graph.n_layers):
        heads = mask[graph.head_writers(layer)].any(dim=1)
        for slot in SLOTS:
            columns = mask[:, graph.slot_readers(layer, slot)]
            if slot != "q":
                columns = columns[:, owner] & heads
            spread[:, whole.slot_readers(layer, slot)] = columns
        spread[:, whole.mlp_reader(layer)] = mask[:, graph.mlp_reader(layer)]
    spread[:, -1] = mask[:, -1]
    return whole, spread

"""What each head does, as numbers that can be compared between heads, checkpoints and models.

A head's signature holds, each between 0 and 1:

- its mean attention between any two named positions of the task (``END>IO``), the key not right of
  the query;
- ``copying`` and ``suppressing``: how often it writes, or writes against, the name it attends to
  (OV circuit; Wang et al. 2022);
- ``previous``, ``duplicate`` and ``induction``: attention on random tokens that come twice (Olsson
  et al. 2022);
- where edge scores are given, what its query, key and value read: ``q<input``, ``q<mlps`` and
  ``q<heads`` are the shares of the absolute scores of the edges into that slot, and ``q<copying``,
  ``q<induction`` and the like are the writing heads' own numbers averaged with those shares, so
  that a slot that reads induction heads has a large ``q<induction``. No head need be given the
  name of a role for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuitlapse.attribution import Scores
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import Graph, Model
from circuitlapse.models.graph import SLOTS
from circuitlapse.reading import attention_of_each, copying_scores, repeat_scores
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs

OWN = ("copying", "suppressing", "previous", "duplicate", "induction")


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures of all heads of one model.

    Attributes:
        heads: Names such as ``a0.h3``, layer by layer.
        features: What the columns are.
        values: One row per head.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    values: Float[np.ndarray, "heads features"]

    def of(self, head: str) -> dict[str, float]:
        """One head's signature by feature."""
        row = self.values[self.heads.index(head)]
        return dict(zip(self.features, row.tolist(), strict=True))


def role_signatures(
    model: Model,
    pairs: PromptPairs,
    scores: Scores | None = None,
    *,
    names: Sequence[str] = (),
    seed: int = 0,
) -> Signatures:
    """Measure every head's signature.

    Args:
        model: From :func:`circuitlapse.load_model`.
        pairs: Prompts with named positions; only the clean ones are read.
        scores: Edge scores of the same model on these prompts.
        names: Positions whose tokens copying is asked for; by default all that hold the answer or
            a distractor in every prompt.
        seed: Draws the random tokens.

    Raises:
        CircuitlapseError: If the prompts name no positions, or hold no candidate at any.
    """
    places = pairs.positions
    ways = [
        (query, key)
        for query in places
        for key in places
        if query != key and bool((places[key] <= places[query]).all())
    ]
    names = tuple(names) or _candidates(pairs)
    if not ways or not names:
        raise CircuitlapseError(
            "role signatures need named positions, some of which hold the answer or a distractor",
            got=", ".join(places) or "none",
            fix="Use tokenize, or give positions to PromptPairs.from_tensors",
        )
    repeats = repeat_scores(model, seed=seed)
    found = {
        f"{query}>{key}": weights.mean(dim=-1)
        for (query, key), weights in zip(ways, attention_of_each(model, pairs, ways), strict=True)
    }
    found["copying"] = copying_scores(model, pairs, names)
    found["suppressing"] = copying_scores(model, pairs, names, negative=True)
    for name in ("previous", "duplicate", "induction"):
        found[name] = getattr(repeats, name)
    values = {name: value.double().flatten().numpy() for name, value in found.items()}
    graph = model.graph
    if scores is not None:
        values |= reads_of(graph, scores.mean.abs().double().numpy(), values)
    heads = tuple(node for node in graph.nodes if not node.startswith("m"))
    return Signatures(heads, tuple(values), np.stack(list(values.values()), axis=1))


def _candidates(pairs: PromptPairs) -> tuple[str, ...]:
    tokens = torch.cat([pairs.answers[:, None], pairs.distractors], dim=1)
    return tuple(
        name
        for name, where in pairs.positions.items()
        if bool((pairs.clean.gather(1, where[:, None]) == tokens).any(dim=1).all())
    )


def reads_of(
    graph: Graph,
    sizes: Float[np.ndarray, "writers readers"],
    own: Mapping[str, Float[np.ndarray, " heads"]],
) -> dict[str, Float[np.ndarray, " heads"]]:
    """Describe what every head's query, key and value read, by the heads that write it.

    Args:
        graph: The model's graph.
        sizes: Absolute edge scores.
        own: Every head's own numbers, of which those in ``OWN`` are averaged.

    Returns:
        By feature, such as ``k<previous``. A slot that reads nothing has zeros.
    """
    is_head = np.array([name.startswith("a") for name in graph.writers])
    is_mlp = np.array([name.startswith("m") for name in graph.writers])
    found = {}
    for slot in SLOTS:
        readers = [graph.slot_readers(layer, slot).start for layer in range(graph.n_layers)]
        columns = [
            start + (head if slot == "q" else graph.kv_head(head))
            for start in readers
            for head in range(graph.n_heads)
        ]
        into = sizes[:, columns]
        total = into.sum(axis=0)
        shares = np.divide(into, total, out=np.zeros_like(into), where=total > 0)
        found[f"{slot}<input"] = shares[0]
        found[f"{slot}<mlps"] = shares[is_mlp].sum(axis=0)
        found[f"{slot}<heads"] = shares[is_head].sum(axis=0)
        for name in OWN:
            found[f"{slot}<{name}"] = own[name] @ shares[is_head]
    return found

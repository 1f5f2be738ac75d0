"""Circuits with nodes taken out of them: what completeness and minimality are made of."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from circuitlapse.circuits.faithfulness import CircuitEvaluation
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.graph import Circuit
from circuitlapse.shapes import Float

Evaluate = Callable[[Sequence[Circuit]], list[CircuitEvaluation]]


def metrics_of(evaluate: Evaluate, circuits: Sequence[Circuit]) -> Float[Tensor, "circuits _"]:
    """Metric of every circuit on every prompt; circuits with the same edges are run once."""
    keys = [circuit.mask.numpy().tobytes() for circuit in circuits]
    different = dict(zip(keys, circuits, strict=True))
    found = {
        key: result.metric
        for key, result in zip(different, evaluate(list(different.values())), strict=True)
    }
    return torch.stack([found[key] for key in keys])


def check_removed(circuit: Circuit, nodes: Collection[str]) -> None:
    """Say which node cannot be removed from a circuit, as it is none of its own.

    Raises:
        CircuitlapseError: With its name.
    """
    foreign = [node for node in nodes if node not in circuit.nodes]
    if foreign:
        raise CircuitlapseError(
            "only nodes of the circuit can be removed from it",
            got=foreign[0],
            fix="Leave out what is not in circuit.nodes",
        )


def random_sets(
    circuit: Circuit, n_sets: int, seed: int, share: float = 0.5
) -> list[tuple[str, ...]]:
    """Draw sets of a circuit's nodes, each node with probability ``share``.

    With one half every subset is as likely as any other.

    Args:
        circuit: Whose nodes.
        n_sets: How many sets.
        seed: The same seed and circuit give the same sets.
        share: Between 0 and 1.

    Raises:
        CircuitlapseError: If the share is no probability.
    """
    if not 0 <= share <= 1:
        raise CircuitlapseError("share must lie between 0 and 1", got=share)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n_sets, len(circuit.nodes), generator=generator) < share
    return [
        tuple(node for node, is_in in zip(circuit.nodes, row, strict=True) if is_in)
        for row in drawn.tolist()
    ]

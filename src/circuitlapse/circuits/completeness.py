"""Completeness (Wang et al. 2022): does the circuit contain everything that the model uses?

F is the mean metric, C the circuit, M the whole model. If the circuit is complete, removing the
same nodes K ⊆ C from both leaves both equally good: |F(C∖K) − F(M∖K)| is small for every K. A large
value means that the model has redundant components that the circuit lacks, such as backup heads. K
can be the nodes of one role, random nodes, or a greedy choice that maximises the difference.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitlapse.circuits.ablation import Ablation
from circuitlapse.circuits.evaluate import evaluate_circuits
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate, mean_interval


@dataclass(frozen=True, eq=False)
class Incompleteness:
    """Circuit and model without the same nodes, in the metric's unit (logits by default).

    Attributes:
        removed: K, in graph order.
        circuit: F(C∖K) of every prompt.
        model: F(M∖K) of every prompt.
    """

    removed: tuple[str, ...]
    circuit: Float[Tensor, " prompts"]
    model: Float[Tensor, " prompts"]

    @property
    def score(self) -> float:
        """|F(C∖K) − F(M∖K)|, with F the mean over prompts: small where C is complete."""
        return abs(float((self.circuit - self.model).double().mean()))

    @property
    def difference(self) -> Estimate:
        """F(C∖K) − F(M∖K) with its sign and its 95 % interval over prompts (Student's t).

        For a K that was chosen greedily on the same prompts the interval is too narrow.
        """
        return mean_interval((self.circuit - self.model).double().numpy())


def completeness(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    sets: Sequence[Collection[str]],
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> list[Incompleteness]:
    """Remove the same nodes from the circuit and from the whole model, for each set K of nodes.

    A set holds names of nodes of the circuit, by role or from :func:`random_sets`. The empty set
    compares the circuit with the model. Other arguments are those of :func:`evaluate_circuit`.

    Returns:
        One result per set, in their order.

    Raises:
        CircuitlapseError: If a set holds a name that is no node of the circuit, and as
            :func:`evaluate_circuit` does.
    """
    for nodes in sets:
        check_removed(circuit, nodes)
    measure = circuit_metrics(model, pairs, ablation, metric, reference, batch_size)
    return _incompleteness(measure, circuit, sets)


def greedy_completeness(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    n_nodes: int,
    candidates: int | None = None,
    seed: int = 0,
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> list[Incompleteness]:
    """Grow K node by node, each time adding the node that maximises |F(C∖K) − F(M∖K)|.

    Every step runs two circuits per candidate, one of them almost the whole model. Candidates are
    all nodes, or as many randomly drawn ones as ``candidates`` says. Other arguments are those of
    :func:`evaluate_circuit`.

    Returns:
        The best K of 1, 2, … ``n_nodes`` nodes, each with one node more than the one before.

    Raises:
        CircuitlapseError: If the circuit has fewer nodes, there is no candidate, and as
            :func:`evaluate_circuit` does.
    """
    if not 1 <= n_nodes <= len(circuit.nodes):
        raise CircuitlapseError(
            f"n_nodes must be from 1 to {len(circuit.nodes)}, the circuit's nodes", got=n_nodes
        )
    if candidates is not None and candidates < 1:
        raise CircuitlapseError("each step needs at least one candidate", got=candidates)
    measure = circuit_metrics(model, pairs, ablation, metric, reference, batch_size)
    generator = torch.Generator().manual_seed(seed)
    removed: tuple[str, ...] = ()
    path = []
    for _ in range(n_nodes):
        left = [node for node in circuit.nodes if node not in removed]
        drawn = torch.randperm(len(left), generator=generator)[:candidates].tolist()
        tried = [(*removed, left[index]) for index in sorted(drawn)]
        best = max(_incompleteness(measure, circuit, tried), key=lambda one: one.score)
        path.append(best)
        removed = best.removed
    return path


Measure = Callable[[Sequence[Circuit]], Float[Tensor, "circuits prompts"]]


def _incompleteness(
    measure: Measure, circuit: Circuit, sets: Sequence[Collection[str]]
) -> list[Incompleteness]:
    if not sets:
        return []
    whole = Circuit(circuit.graph, circuit.graph.edges)
    metrics = measure([each.without(nodes) for each in (circuit, whole) for nodes in sets])
    return [
        Incompleteness(tuple(n for n in circuit.graph.nodes if n in nodes), ours, theirs)
        for nodes, ours, theirs in zip(sets, *metrics.split(len(sets)), strict=True)
    ]


def circuit_metrics(
    model: Model,
    pairs: PromptPairs,
    ablation: Ablation,
    metric: Metric,
    reference: PromptPairs | None,
    batch_size: int | None,
) -> Measure:
    """Return a function that measures circuits on every prompt, those with the same edges once."""

    def measure(circuits: Sequence[Circuit]) -> Tensor:
        keys = [circuit.mask.numpy().tobytes() for circuit in circuits]
        different = dict(zip(keys, circuits, strict=True))
        results = evaluate_circuits(
            model, list(different.values()), pairs, ablation, metric, reference, batch_size
        )
        found = dict(zip(different, results, strict=True))
        return torch.stack([found[key].metric for key in keys])

    return measure


def check_removed(circuit: Circuit, nodes: Collection[str]) -> None:
    """Check that all nodes belong to the circuit.

    Raises:
        CircuitlapseError: With the name of one that does not.
    """
    for node in nodes:
        if node not in circuit.nodes:
            raise CircuitlapseError(
                "only nodes of the circuit can be removed from it",
                got=node,
                fix="Choose from circuit.nodes",
            )


def random_sets(
    circuit: Circuit, n_sets: int, seed: int, share: float = 0.5
) -> list[tuple[str, ...]]:
    """Draw sets of a circuit's nodes, each node with probability ``share``.

    With 0.5 every subset is equally likely. The same seed and circuit give the same sets.

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

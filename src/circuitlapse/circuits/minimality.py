"""Minimality (Wang et al. 2022): is every node of the circuit necessary?

F is the mean metric, C the circuit. For each node v of C there should be some K ⊆ C∖{v} without
which v matters: |F(C∖(K ∪ {v})) − F(C∖K)| is large. With K empty it is the plain effect of removing
v. Redundant nodes, such as name movers, matter only after the others are removed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from circuitlapse.circuits.ablation import Ablation
from circuitlapse.circuits.completeness import check_removed, circuit_metrics
from circuitlapse.models.engine.circuit import Circuit
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate, mean_interval


@dataclass(frozen=True, eq=False)
class NodeMinimality:
    """A node, and the set K without which it matters most.

    Attributes:
        node: v.
        removed: K, in graph order.
        without_set: F(C∖K) of every prompt, in the metric's unit (logits by default).
        without_both: F(C∖(K ∪ {v})) of every prompt.
    """

    node: str
    removed: tuple[str, ...]
    without_set: Float[Tensor, " prompts"]
    without_both: Float[Tensor, " prompts"]

    @property
    def score(self) -> float:
        """|F(C∖(K ∪ {v})) − F(C∖K)|, with F the mean over prompts: large where v is needed."""
        return abs(float((self.without_both - self.without_set).double().mean()))

    @property
    def difference(self) -> Estimate:
        """F(C∖(K ∪ {v})) − F(C∖K) with its sign and its 95 % interval over prompts (Student's t).

        K was chosen on the same prompts, so that with many sets the interval is too narrow.
        """
        return mean_interval((self.without_both - self.without_set).double().numpy())


def minimality(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    sets: Sequence[Collection[str]] = (),
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> list[NodeMinimality]:
    """Find for every node of the circuit the set K without which it matters most.

    Candidates for K are the empty set and ``sets``: names of nodes of the circuit, by role or from
    :func:`random_sets`. For a node of a set, K is the rest of the set. Other arguments are those of
    :func:`evaluate_circuit`.

    Returns:
        One result per node of the circuit, in graph order; ties go to the first set.

    Raises:
        CircuitlapseError: If a set holds a name that is no node of the circuit, and as
            :func:`evaluate_circuit` does.
    """
    for nodes in sets:
        check_removed(circuit, nodes)
    tried = [(node, frozenset(nodes) - {node}) for node in circuit.nodes for nodes in ((), *sets)]
    if not tried:
        return []
    measure = circuit_metrics(model, pairs, ablation, metric, reference, batch_size)
    without_set = [circuit.without(nodes) for _, nodes in tried]
    without_both = [circuit.without({node, *nodes}) for node, nodes in tried]
    metrics = measure(without_set + without_both).split(len(tried))
    best: dict[str, NodeMinimality] = {}
    for (node, nodes), before, after in zip(tried, *metrics, strict=True):
        removed = tuple(one for one in circuit.graph.nodes if one in nodes)
        found = NodeMinimality(node, removed, before, after)
        if node not in best or found.score > best[node].score:
            best[node] = found
    return list(best.values())

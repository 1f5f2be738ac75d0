"""Faithfulness of a circuit, with all other edges ablated (MIB, Mueller et al. 2025).

f(C) = (m(C) − m(∅)) / (m(M) − m(∅)), with m the mean metric over prompts, ∅ the circuit without
edges and M the whole model. It is unbounded and never clamped. If the 95 % interval of the
denominator includes zero (a model that fails on the task), f is undefined and not reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from circuitlapse.circuits.ablation import Ablation, ablated_run, check_ablation, mean_outputs
from circuitlapse.circuits.circuit_run import CircuitRun
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.circuit import Circuit
from circuitlapse.models.engine.model import Model
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import near_zero


@dataclass(frozen=True, eq=False)
class CircuitEvaluation:
    """Metrics of a circuit with all other edges ablated, one entry per prompt.

    Attributes:
        metric: The circuit's metric, m(C), in the metric's unit: logits for logit differences.
        clean: The whole model's, m(M).
        empty: The empty circuit's, m(∅), under the same ablation. With ``corrupt`` ablation that is
            the corrupt prompt with the clean prompt's answer.
        n_edges: Number of edges in the circuit.
        ablation: Ablation of the other edges.
    """

    metric: Float[Tensor, " prompts"]
    clean: Float[Tensor, " prompts"]
    empty: Float[Tensor, " prompts"]
    n_edges: int
    ablation: Ablation = "corrupt"

    @property
    def why_undefined(self) -> str | None:
        """Why faithfulness is undefined, or None if it is defined.

        The 95 % interval over prompts (Student's t) of m(M) − m(∅) must not include zero.
        """
        return near_zero((self.clean - self.empty).double().numpy())

    @property
    def faithfulness(self) -> float:
        """f(C): 1 for the whole model, 0 for the empty circuit, and unbounded.

        Raises:
            CircuitlapseError: If the denominator is not clear of zero.
        """
        check_defined(self, "faithfulness")
        gap = (self.clean - self.empty).double().mean()
        return float((self.metric - self.empty).double().mean() / gap)

    def __str__(self) -> str:
        """Summarise in one line."""
        share = self.why_undefined or f"faithfulness {self.faithfulness:.3f}"
        means = ", ".join(
            f"{name} {float(getattr(self, name).mean()):.3f}"
            for name in ("metric", "clean", "empty")
        )
        return f"circuit of {self.n_edges} edges: {share}; {means} ({self.ablation} ablation)"


def evaluate_circuit(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> CircuitEvaluation:
    """Run a circuit on the clean prompts with all other edges ablated.

    Args:
        model: From :func:`circuitlapse.load_model`.
        circuit: From ``scores.top(...)`` or your own mask.
        pairs: Clean and corrupt prompts with their metric.
        ablation: Ablation of the other edges: the source's output on the ``corrupt`` prompt
            (resample ablation), its ``mean`` output over a reference set of prompts at the aligned
            position (see :mod:`circuitlapse.circuits.ablation`), or ``zero``.
        metric: See :mod:`circuitlapse.prompts.metrics`.
        reference: For ``mean``: pairs whose corrupt prompts are averaged over, by default those of
            ``pairs``.
        batch_size: Pairs per batch; by default as many as fit a fixed memory budget.

    Raises:
        CircuitlapseError: If the circuit belongs to another graph, the ablation is unknown, the
            reference does not cover the prompts, or the model cannot run them.
    """
    return evaluate_circuits(model, [circuit], pairs, ablation, metric, reference, batch_size)[0]


@torch.no_grad()
def evaluate_circuits(
    model: Model,
    circuits: Sequence[Circuit],
    pairs: PromptPairs,
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> list[CircuitEvaluation]:
    """Evaluate several circuits as :func:`evaluate_circuit` does, with shared clean runs."""
    decoder, graph = model.decoder, model.graph
    check_ablation(ablation, reference)
    for circuit in circuits:
        if circuit.graph != graph:
            raise CircuitlapseError(
                "the circuit belongs to a model of another shape",
                got=f"{circuit.graph} for {graph}",
                fix="Choose the circuit with attribute(model, pairs).top(n)",
            )
    means = None
    if ablation == "mean":
        means = mean_outputs(decoder, pairs, reference, batch_size)
    # With every edge nothing is ablated: that is the clean run.
    parts = [circuit for circuit in circuits if circuit.n_edges < graph.n_edges]
    most_writers = max((int(one.mask.any(dim=1).sum()) for one in parts), default=0)
    # The clean run, the ablated run, and the circuits.
    metrics = torch.empty(2 + len(parts), len(pairs))
    floats_per_token = decoder.d_model * (
        len(graph.writers) + 12 * graph.n_layers + 6 * graph.n_heads + 16
    )

    def work(batch: Suffixes) -> Tensor:
        clean = decoder.run(batch.clean, batch.context)
        ablated = ablated_run(decoder, batch, ablation, means)
        room = batch.clean.new_empty(most_writers, *batch.clean.shape)
        runs = (CircuitRun(decoder, batch, ablated, circuit, room) for circuit in parts)
        finals = chain((clean, ablated[-1].resid_post), (run.final() for run in runs))
        return torch.stack([batch.metric(decoder, final).float().cpu() for final in finals])

    def keep(rows: Tensor, found: Tensor) -> None:
        metrics[:, rows] = found

    # Before the first differing token, only the corrupt run has the clean run's activations.
    each_batch(
        decoder,
        pairs,
        floats_per_token,
        work,
        keep=keep,
        metric=metric,
        batch_size=batch_size,
        whole=ablation != "corrupt",
    )
    own = iter(metrics[2:])
    return [
        CircuitEvaluation(
            next(own) if circuit.n_edges < graph.n_edges else metrics[0].clone(),
            metrics[0],
            metrics[1],
            circuit.n_edges,
            ablation,
        )
        for circuit in circuits
    ]


def check_defined(evaluation: CircuitEvaluation, what: str) -> None:
    """Check that m(M) − m(∅), the denominator, is clear of zero.

    Raises:
        CircuitlapseError: With the reason.
    """
    if evaluation.why_undefined is not None:
        raise CircuitlapseError(
            f"{what} is undefined: {evaluation.why_undefined}",
            fix="Use more prompts, or use the attribute metric, which is not a ratio",
        )

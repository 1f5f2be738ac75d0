"""How a circuit does by itself, with every edge outside it ablated."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from circuitlapse.circuits.ablation import Ablation, ablated_run, check_ablation, mean_outputs
from circuitlapse.circuits.faithfulness import CircuitEvaluation
from circuitlapse.circuits.run import CircuitRun
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.graph import Circuit
from circuitlapse.models.load import Model
from circuitlapse.models.prefix import Suffixes, each_batch
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs


def evaluate_circuit(
    model: Model,
    circuit: Circuit,
    pairs: PromptPairs,
    ablation: Ablation = "corrupt",
    metric: Metric = "logit_diff",
    reference: PromptPairs | None = None,
    batch_size: int | None = None,
) -> CircuitEvaluation:
    """Run a circuit on the clean prompts with every edge outside it ablated.

    Args:
        model: From :func:`circuitlapse.load_model`.
        circuit: From ``scores.top(...)`` or a mask of one's own.
        pairs: Clean and corrupt prompts with their metric.
        ablation: What the edges outside carry: the writer's output on the ``corrupt`` prompt, its
            ``mean`` output over a reference set of prompts at the same place (see
            :mod:`circuitlapse.circuits.ablation`), or nothing (``zero``).
        metric: See :mod:`circuitlapse.tasks.metrics`.
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
    """Evaluate several circuits, as :func:`evaluate_circuit` does, on one pair of plain runs."""
    decoder, graph = model.decoder, model.graph
    check_ablation(ablation, reference)
    for circuit in circuits:
        if circuit.graph != graph:
            raise CircuitlapseError(
                "the circuit belongs to a model of another shape",
                got=f"{circuit.graph} for {graph}",
                fix="Pick the circuit from scores of this model or of one built alike",
            )
    means = None
    if ablation == "mean":
        means = mean_outputs(decoder, pairs, reference, batch_size)
    # With every edge nothing is ablated: that is the clean run.
    parts = [circuit for circuit in circuits if circuit.n_edges < graph.n_edges]
    most_writers = max((int(one.mask.any(dim=1).sum()) for one in parts), default=0)
    # Of the clean run, of the ablated one, and of the circuits.
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

    # Left of the first difference only what the corrupt run carries is what the clean run has.
    each_batch(
        decoder, pairs, floats_per_token, work,
        keep=keep, metric=metric, batch_size=batch_size, whole=ablation != "corrupt",
    )  # fmt: skip
    own = iter(metrics[2:])
    return [
        CircuitEvaluation(
            next(own) if circuit.n_edges < graph.n_edges else metrics[0].clone(),
            metrics[0], metrics[1], circuit.n_edges, ablation,
        )
        for circuit in circuits
    ]  # fmt: skip

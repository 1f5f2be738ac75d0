"""Faithfulness as MIB (Mueller et al. 2025) defines it, and when not to compute it.

f(C) = (m(C) − m(∅)) / (m(M) − m(∅)), with m the mean metric over prompts, ∅ the circuit without
edges and M the whole model. It is unbounded on purpose and never clamped. Where the denominator is
not clear of zero (a model that cannot do the task) it would be noise, and is refused with the
reason.
"""

from dataclasses import dataclass

from torch import Tensor

from circuitlapse.circuits.ablation import Ablation
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.intervals import near_zero
from circuitlapse.shapes import Float


@dataclass(frozen=True, eq=False)
class CircuitEvaluation:
    """How a circuit does with everything outside it ablated, one entry per prompt.

    Attributes:
        metric: The circuit's metric, m(C), in the metric's unit: logits for logit differences.
        clean: The whole model's, m(M).
        empty: The empty circuit's, m(∅), under the same ablation. With ``corrupt`` ablation that is
            the corrupt prompt with the clean prompt's answer.
        n_edges: Number of edges in the circuit.
        ablation: What the edges outside carry.
    """

    metric: Float[Tensor, " prompts"]
    clean: Float[Tensor, " prompts"]
    empty: Float[Tensor, " prompts"]
    n_edges: int
    ablation: Ablation = "corrupt"

    @property
    def refusal(self) -> str | None:
        """Why there is no faithfulness, or None where there is one.

        The 95 % interval over prompts (Student's t) of m(M) − m(∅) must not touch zero.
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
        share = self.refusal or f"faithfulness {self.faithfulness:.3f}"
        means = ", ".join(
            f"{name} {float(getattr(self, name).mean()):.3f}"
            for name in ("metric", "clean", "empty")
        )
        return f"circuit of {self.n_edges} edges: {share}; {means} ({self.ablation} ablation)"


def check_defined(evaluation: CircuitEvaluation, what: str) -> None:
    """Refuse what divides by m(M) − m(∅) where that is not clear of zero.

    Raises:
        CircuitlapseError: With the reason.
    """
    if evaluation.refusal is not None:
        raise CircuitlapseError(
            f"{what} is undefined here, as {evaluation.refusal}",
            fix="Use more prompts, or look at the metric itself, which is not divided",
        )

"""Faithfulness as MIB (Mueller et al. 2025) defines it, and when not to compute it.

f(C) = (m(C) − m(∅)) / (m(M) − m(∅)), with m the mean metric over prompts, ∅ every edge corrupted
and M the whole model. It is unbounded on purpose and never clamped. Where the denominator is not
clear of zero (a model that cannot do the task) it would be noise, and is refused with the reason.
"""

from dataclasses import dataclass
from math import sqrt

from scipy.special import stdtrit
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Float


@dataclass(frozen=True, eq=False)
class CircuitEvaluation:
    """How a circuit does with everything outside it corrupted, one entry per prompt, in logits.

    Attributes:
        metric: The circuit's metric, m(C).
        clean: The whole model's, m(M).
        corrupt: The empty circuit's, m(∅): the corrupt prompt with the clean prompt's answer.
        n_edges: Number of edges in the circuit.
    """

    metric: Float[Tensor, " prompts"]
    clean: Float[Tensor, " prompts"]
    corrupt: Float[Tensor, " prompts"]
    n_edges: int

    @property
    def refusal(self) -> str | None:
        """Why there is no faithfulness, or None where there is one.

        The 95 % interval over prompts (Student's t) of m(M) − m(∅) must not touch zero.
        """
        gap = (self.clean - self.corrupt).double()
        n = len(gap)
        if n < 2:
            return "one prompt gives no interval for the difference of clean and corrupt metric"
        mean = float(gap.mean())
        margin = float(stdtrit(n - 1, 0.975)) * float(gap.std()) / sqrt(n)
        if abs(mean) > margin:
            return None
        return (
            "the difference of clean and corrupt metric is not clear of zero: "
            f"{mean:.3g} (95 % interval {mean - margin:.3g} to {mean + margin:.3g})"
        )

    @property
    def faithfulness(self) -> float:
        """f(C): 1 for the whole model, 0 for the empty circuit, and unbounded.

        Raises:
            CircuitlapseError: If the denominator is not clear of zero.
        """
        if self.refusal is not None:
            raise CircuitlapseError(
                f"faithfulness is undefined here, as {self.refusal}",
                fix="Use more prompts, or look at the metric itself, which is not divided",
            )
        gap = (self.clean - self.corrupt).double().mean()
        return float((self.metric - self.corrupt).double().mean() / gap)

    def __str__(self) -> str:
        """Summarise in one line."""
        share = self.refusal or f"faithfulness {self.faithfulness:.3f}"
        return (
            f"circuit of {self.n_edges} edges: {share}; metric {float(self.metric.mean()):.3f}, "
            f"clean {float(self.clean.mean()):.3f}, corrupt {float(self.corrupt.mean()):.3f}"
        )

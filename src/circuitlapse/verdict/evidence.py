"""The measurements of one fine-tune for the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuitlapse.records.answers import Behaviour
from circuitlapse.records.documents import Group, Precondition
from circuitlapse.shapes import Float
from circuitlapse.stats.random_baseline import RandomBaseline, compare_to_random
from circuitlapse.verdict.causes import Measured
from circuitlapse.verdict.decision import Run, Support


@dataclass(frozen=True)
class Choice:
    """The two groups of heads that the verdict is about.

    Attributes:
        old_heads: Heads that the base uses on the old task.
        recruited_heads: Heads that the base uses on neither task and the tuned model uses.
        not_reported: Why heads could not be told apart; empty if they could.
    """

    old_heads: tuple[str, ...]
    recruited_heads: tuple[str, ...]
    not_reported: str = ""


HEAD_GROUPS: tuple[Group, ...] = ("old_heads", "recruited_heads")
"""The groups that a label may name."""


@dataclass(frozen=True, eq=False)
class CauseEvidence:
    """One fine-tune, measured.

    Attributes:
        choice: The groups of heads.
        n_parameters: Size of each parameter group.
        scales: The fitted output scale of every head and MLP, by node.
        base: Answers of M0 on the test prompts.
        tuned: Answers of M1.
        hybrids: Logit difference of every graft of M1 into rescaled M0, in the order of
            :data:`circuitlapse.verdict.causes.SUBSETS`: rescaled M0 first, M1 last.
        non_negative: Logit difference of M0 with scales that cannot be negative.
        graft: For each group of heads that is not empty, its tuned weights alone in rescaled M0:
            the mean rise over rescaled M0 in logits, its own first and then the random groups'.
        held: Likewise the mean rise over M0 with all other heads frozen to M0's activations.
    """

    choice: Choice
    n_parameters: dict[Group, int]
    scales: dict[str, float]
    base: Behaviour
    tuned: Behaviour
    hybrids: Float[np.ndarray, "subsets prompts"]
    non_negative: Float[np.ndarray, " prompts"]
    graft: dict[Group, list[float]]
    held: dict[Group, list[float]]

    @property
    def measured(self) -> Measured:
        """The input of the shares."""
        return Measured(self.base, self.tuned, self.hybrids)

    @property
    def support(self) -> Support:
        """The required checks."""
        before = self.base.logit_diff.mean(dtype=np.float64).item()
        improvement = self.tuned.logit_diff.mean(dtype=np.float64).item() - before
        # Without an improvement there is no share, and the label is `no_gain`.
        reached = (
            (float(self.non_negative.mean()) - before) / improvement if improvement > 0 else 0.0
        )
        return Support(reached, _baseline(self.graft), _baseline(self.held))

    def run(self, preconditions: Sequence[Precondition] = ()) -> Run:
        """Return the input of :func:`circuitlapse.verdict.decision.decide_causes`."""
        return Run(self.measured, self.support, preconditions)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and JSON metadata, the input of :meth:`of_arrays`."""
        arrays = {"hybrids": self.hybrids, "non_negative": self.non_negative}
        for name, answers in (("base", self.base), ("tuned", self.tuned)):
            arrays |= {f"{name}.{key}": getattr(answers, key) for key in _ANSWERS}
        about = {
            "old_heads": list(self.choice.old_heads),
            "recruited_heads": list(self.choice.recruited_heads),
            "not_reported": self.choice.not_reported,
            "n_parameters": dict(self.n_parameters),
            "output_scales": dict(self.scales),
            "graft": dict(self.graft),
            "held": dict(self.held),
        }
        return arrays, about

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
    ) -> "CauseEvidence":
        """Return the evidence that :meth:`to_arrays` wrote."""

        def answers(name: str) -> Behaviour:
            return Behaviour(*(arrays[f"{name}.{key}"] for key in _ANSWERS))

        return cls(
            choice=Choice(
                tuple(about["old_heads"]), tuple(about["recruited_heads"]), about["not_reported"]
            ),
            n_parameters=dict(about["n_parameters"]),
            scales=dict(about["output_scales"]),
            base=answers("base"),
            tuned=answers("tuned"),
            hybrids=arrays["hybrids"],
            non_negative=arrays["non_negative"],
            graft=dict(about["graft"]),
            held=dict(about["held"]),
        )


_ANSWERS = ("logit_diff", "correct", "candidate_correct", "spread")


def _baseline(values: Mapping[Group, Sequence[float]]) -> dict[Group, RandomBaseline | None]:
    return {group: compare_to_random(own, others) for group, (own, *others) in values.items()}

"""Everything that the label of one fine-tune rests on, measured on two models.

Gains are fitted and groups chosen on validation prompts; on test prompts follow the answers of both
models, all hybrids of gained M0 and M1, what gains that cannot be negative reach, and, beside the
old circuit's and the recruited heads, what size-matched random heads reach by graft and by
mediation. The definitions stand in :mod:`circuitlapse.compare.causes`, ``gains``, ``mediation`` and
``matched``; the rule that turns this into a label in :mod:`circuitlapse.compare.decision`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from circuitlapse.compare.causes import Measured
from circuitlapse.compare.choice import Choice, Variants, choose_heads
from circuitlapse.compare.decision import Run, Support
from circuitlapse.compare.gains import GainFits, Gains, gained
from circuitlapse.compare.grafts import graft_values
from circuitlapse.compare.groups import parameter_groups
from circuitlapse.compare.head_grafts import GraftedHeads
from circuitlapse.compare.matched import Beside, beside, matched_heads
from circuitlapse.compare.mediation import held_behaviours
from circuitlapse.compare.thresholds import JUDGED_GROUPS
from circuitlapse.models import Behaviour, Model, behaviour
from circuitlapse.records.documents import Group, Precondition
from circuitlapse.shapes import Float
from circuitlapse.tasks.pairs import PromptPairs

HEAD_GROUPS: tuple[Group, ...] = ("old_heads", "recruited_heads")
"""The groups that a label may name."""


@dataclass(frozen=True)
class EvidencePrompts:
    """What the evidence is measured on.

    Attributes:
        old: Validation prompts of the old task, under each corruption of one family.
        new: Validation prompts of the new task, likewise.
        test: Test prompts of the new task, of which the clean ones are run.
    """

    old: Variants
    new: Variants
    test: PromptPairs


@dataclass(frozen=True, eq=False)
class CauseEvidence:
    """One fine-tune, measured.

    Attributes:
        choice: The groups of heads.
        n_parameters: Size of each parameter group.
        gains: The fitted gain of every head and MLP, by node.
        base: Answers of M0 on the test prompts.
        tuned: Answers of M1.
        hybrids: Logit difference of every hybrid of gained M0 and M1, in the order of
            :data:`circuitlapse.compare.shares.SUBSETS`: gained M0 first, M1 last.
        non_negative: Logit difference of M0 with gains that cannot be negative.
        graft: For each group of heads that is not empty, its tuned weights alone in gained M0:
            the mean rise over gained M0 in logits, its own first and then the random groups'.
        held: Likewise the mean rise over M0 with all other heads held at M0's activations.
    """

    choice: Choice
    n_parameters: dict[Group, int]
    gains: dict[str, float]
    base: Behaviour
    tuned: Behaviour
    hybrids: Float[np.ndarray, "subsets prompts"]
    non_negative: Float[np.ndarray, " prompts"]
    graft: dict[Group, list[float]]
    held: dict[Group, list[float]]

    @property
    def measured(self) -> Measured:
        """What the shares are worked out from."""
        return Measured(self.base, self.tuned, self.hybrids)

    @property
    def support(self) -> Support:
        """What stands beside the shares."""
        before = self.base.logit_diff.double().mean().item()
        gain = self.tuned.logit_diff.double().mean().item() - before
        # Without a gain there is no share; the label is then `no_gain` whatever stands here.
        reached = (float(self.non_negative.mean()) - before) / gain if gain > 0 else 0.0
        return Support(reached, _beside(self.graft), _beside(self.held))

    def run(self, preconditions: Sequence[Precondition] = ()) -> Run:
        """Hand it to :func:`circuitlapse.compare.decision.decide_causes`."""
        return Run(self.measured, self.support, preconditions)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything as arrays and JSON-like metadata, to be written; see :meth:`of_arrays`."""
        arrays = {"hybrids": self.hybrids, "non_negative": self.non_negative}
        for name, answers in (("base", self.base), ("tuned", self.tuned)):
            arrays |= {f"{name}.{key}": getattr(answers, key).numpy() for key in _ANSWERS}
        about = {
            "old_heads": list(self.choice.old_heads),
            "recruited_heads": list(self.choice.recruited_heads),
            "refused": self.choice.refused,
            "n_parameters": dict(self.n_parameters),
            "gains": dict(self.gains),
            "graft": dict(self.graft),
            "held": dict(self.held),
        }
        return arrays, about

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]
    ) -> "CauseEvidence":
        """Read what :meth:`to_arrays` gave."""

        def answers(name: str) -> Behaviour:
            return Behaviour(*(torch.from_numpy(arrays[f"{name}.{key}"]) for key in _ANSWERS))

        return cls(
            choice=Choice(
                tuple(about["old_heads"]), tuple(about["recruited_heads"]), about["refused"]
            ),
            n_parameters=dict(about["n_parameters"]),
            gains=dict(about["gains"]),
            base=answers("base"),
            tuned=answers("tuned"),
            hybrids=arrays["hybrids"],
            non_negative=arrays["non_negative"],
            graft=dict(about["graft"]),
            held=dict(about["held"]),
        )


_ANSWERS = ("logit_diff", "correct", "correct_among", "spread")


def cause_evidence(
    base: Model,
    tuned: Model,
    prompts: EvidencePrompts,
    *,
    seed: int = 0,
    n_random: int = JUDGED_GROUPS,
    advance: Callable[[int, int], None] | None = None,
) -> CauseEvidence:
    """Measure everything that the label of one fine-tune rests on.

    Args:
        base: M0.
        tuned: M1, of the same architecture and vocabulary.
        prompts: What to measure on.
        seed: Draws the random groups.
        n_random: Random groups beside each group of heads.
        advance: Called with (parts done, parts in all).

    Raises:
        CircuitlapseError: If the models differ in architecture or cannot run the prompts.
    """
    done, of = 0, 3 + 2 * len(HEAD_GROUPS)

    def step() -> None:
        nonlocal done
        done += 1
        if advance is not None:
            advance(done, of)

    validation = next(iter(prompts.new.values()))
    choice = choose_heads(base, tuned, prompts.old, prompts.new)
    step()
    fits = GainFits(base, tuned, validation)
    gains, held_back = fits.fit(), fits.fit(non_negative=True)
    del fits  # what both models read of all prompts
    louder = gained(base, gains)
    bounded = louder if held_back is gains else gained(base, held_back)
    step()
    groups = parameter_groups(base.hf, choice.old_heads, choice.recruited_heads)
    hybrids = graft_values(louder, tuned, groups, prompts.test)
    before = behaviour(base, prompts.test)
    step()
    named: dict[Group, tuple[str, ...]] = {
        "old_heads": choice.old_heads,
        "recruited_heads": choice.recruited_heads,
    }
    graft: dict[Group, list[float]] = {}
    held: dict[Group, list[float]] = {}
    grafted = GraftedHeads(louder, tuned, prompts.test)
    for group, heads in named.items():
        if heads:
            sets = [heads, *matched_heads(base.graph, heads, n_random, seed)]
            rises = grafted.gains(sets, "whole", "first_in")
            graft[group] = rises.mean(axis=1).tolist()
            step()
            answers = held_behaviours(base, tuned, prompts.test, sets)
            left = [_mean(each) - _mean(before) for each in answers]
            held[group] = left
            step()
    return CauseEvidence(
        choice=choice,
        n_parameters=groups.n_parameters,
        gains=_by_node(gains),
        base=before,
        tuned=behaviour(tuned, prompts.test),
        hybrids=hybrids,
        non_negative=behaviour(bounded, prompts.test).logit_diff.double().numpy(),
        graft=graft,
        held=held,
    )


def _mean(answers: Behaviour) -> float:
    return answers.logit_diff.double().mean().item()


def _by_node(gains: Gains) -> dict[str, float]:
    return dict(zip(gains.graph.nodes, gains.nodes.tolist(), strict=True))


def _beside(values: Mapping[Group, Sequence[float]]) -> dict[Group, Beside | None]:
    return {group: beside(own, others) for group, (own, *others) in values.items()}

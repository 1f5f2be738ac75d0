"""Faithfulness over circuit sizes, and the two areas that MIB (Mueller et al. 2025) ranks by.

With f(k) the faithfulness of the circuit of a share k of all edges, CPR is the area under f and CMD
the area under |1 − f|: circuit performance ratio, larger is better, and circuit-model distance,
smaller is better. Both are trapezoids between the sizes that were run, linear in k, with no point
added at k = 0: over MIB's ten sizes, .001 to 1, a circuit that is always faithful has a CPR of
0.999. k is the requested share, before pruning. Nothing is clamped.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from circuitlapse.attribution.scores import By, Grow, Scores
from circuitlapse.circuits.ablation import Ablation
from circuitlapse.circuits.evaluate import CircuitEvaluation, check_defined, evaluate_circuits
from circuitlapse.config.experiment import MIB_FRACTIONS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.model import Model
from circuitlapse.prompts.metrics import Metric
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import (
    Estimate,
    bootstrap_indices,
    bootstrap_means,
    percentile_ends,
)


def faithfulness_curve(
    model: Model,
    scores: Scores,
    pairs: PromptPairs,
    fractions: Sequence[float] = MIB_FRACTIONS,
    by: By = "absolute",
    metric: Metric = "logit_diff",
    batch_size: int | None = None,
    *,
    grow: Grow = "topn",
    ablation: Ablation = "corrupt",
    reference: PromptPairs | None = None,
) -> list[CircuitEvaluation]:
    """Evaluate circuits of growing size from one ranking of the edges, in the order of fractions.

    Fractions are shares of all edges, before pruning. ``by`` and ``grow`` are those of
    :meth:`Scores.top`, all other arguments those of :func:`evaluate_circuit`. The scores may come
    from other prompts.
    """
    circuits = [scores.top(fraction=fraction, by=by, grow=grow) for fraction in fractions]
    return evaluate_circuits(model, circuits, pairs, ablation, metric, reference, batch_size)


def cpr(
    evaluations: Sequence[CircuitEvaluation],
    fractions: Sequence[float] = MIB_FRACTIONS,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Area under f(k) with its 95 % bootstrap interval over prompts (MIB's CPR).

    MIB reports it for circuits of the largest signed scores: ``by="signed"``.

    Args:
        evaluations: From :func:`faithfulness_curve`.
        fractions: Their sizes, growing.
        repeats: Resamples of the prompts.
        seed: Of the resampling.

    Raises:
        CircuitlapseError: If m(M) − m(∅) is not clear of zero, sizes do not grow or do not match
            the evaluations, or these are of different prompts.
    """
    return _area("CPR", lambda f: f, evaluations, fractions, repeats, seed)


def cmd(
    evaluations: Sequence[CircuitEvaluation],
    fractions: Sequence[float] = MIB_FRACTIONS,
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Area under |1 − f(k)| with its 95 % bootstrap interval over prompts (MIB's CMD).

    MIB reports it for circuits of the largest absolute scores: ``by="absolute"``. Arguments and
    errors are those of :func:`cpr`.
    """
    return _area("CMD", lambda f: np.abs(1 - f), evaluations, fractions, repeats, seed)


def _area(
    what: str,
    height: Callable[[np.ndarray], np.ndarray],
    evaluations: Sequence[CircuitEvaluation],
    fractions: Sequence[float],
    repeats: int,
    seed: int,
) -> Estimate:
    if len(evaluations) != len(fractions) or len(fractions) < 2:
        raise CircuitlapseError(
            f"{what} needs one evaluation for each of two or more sizes",
            got=f"{len(evaluations)} evaluations and {len(fractions)} sizes",
            fix="Pass the fractions that faithfulness_curve got",
        )
    if any(after <= before for before, after in pairwise(fractions)):
        raise CircuitlapseError(
            f"the sizes of {what} must grow", got=tuple(fractions), fix="Sort them"
        )
    first = evaluations[0]
    for one in evaluations:
        same = one.ablation == first.ablation and all(
            len(ours) == len(theirs) and torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
            for ours, theirs in ((one.clean, first.clean), (one.empty, first.empty))
        )
        if not same:
            raise CircuitlapseError(
                f"the evaluations of one {what} must be of the same prompts and ablation",
                fix="Take them from one call of faithfulness_curve or evaluate_circuits",
            )
    check_defined(first, what)
    columns = torch.stack([one.metric for one in evaluations] + [first.clean, first.empty], dim=1)
    per_prompt = columns.double().numpy()
    heights = height(_faithfulness(per_prompt.mean(axis=0, keepdims=True)))
    draws = bootstrap_means(per_prompt, bootstrap_indices(len(per_prompt), repeats, seed))
    areas = np.trapezoid(height(_faithfulness(draws)), fractions, axis=1)
    low, high = percentile_ends(areas[:, None])
    value = np.trapezoid(heights, fractions, axis=1)[0]
    return Estimate(value=float(value), low=float(low[0]), high=float(high[0]))


def _faithfulness(
    means: Float[np.ndarray, "draws columns"],
) -> Float[np.ndarray, "draws sizes"]:
    """Return ratios of means; the last two columns are clean and empty."""
    metric, clean, empty = means[:, :-2], means[:, -2:-1], means[:, -1:]
    return (metric - empty) / (clean - empty)

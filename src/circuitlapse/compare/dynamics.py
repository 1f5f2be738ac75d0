"""When each head's importance changed, and whether that is change or chance.

A head's mean effect over the checkpoints is cut once, where the two pieces are closest to constant:
the cut leaves the smallest sum of squares about the two means (exact search over all cuts; Page
1955 poses the problem). A cut exists in any series, so three questions are asked of it:

- is there an order in time at all? The reduction of the sum of squares is compared with that of the
  best cut when the checkpoints are shuffled (permutation p-value). A cut that leaves one
  checkpoint *alone* at an end looks the same whichever checkpoint stands there: its p cannot fall
  below 2 in as many as there are checkpoints, and whether it is a change the order cannot tell;
- is the change larger than what the prompts' differences allow? The paired difference over prompts
  of the mean after and before the cut has its interval, corrected for the number of heads;
- do fine-tuning seeds agree? See :func:`seed_agreement`.

A *flip* is a cut whose means before and after have opposite signs and intervals that both exclude
zero, corrected likewise. A smooth drift has a cut, too, in its middle; it is a date, not a jump.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitlapse.compare.fates import corrected_confidence
from circuitlapse.compare.noise import p_value
from circuitlapse.compare.permutations import draw_permutations, relabel
from circuitlapse.compare.similarity import SIMILARITIES
from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.documents import Estimate
from circuitlapse.records.intervals import mean_interval, mean_intervals
from circuitlapse.records.nodes import head_of
from circuitlapse.shapes import Float, Int


@dataclass(frozen=True)
class HeadDynamics:
    """One head's most likely change over a fine-tune.

    Attributes:
        head: Such as ``a0.h3``.
        step: First checkpoint after the cut.
        before: Mean effect before it, in logits.
        after: Mean effect from it on.
        change: After minus before, with its interval over prompts.
        p_value: Of the order of the checkpoints.
        alone: Whether the cut leaves one checkpoint alone.
        flipped: Whether the sign changed, beyond both intervals.
        with_behaviour: Pearson correlation of the effect with the behaviour over the checkpoints;
            None where one of them is constant.
    """

    head: str
    step: int
    before: float
    after: float
    change: Estimate
    p_value: float
    alone: bool
    flipped: bool
    with_behaviour: float | None


def head_dynamics(
    effects: Float[np.ndarray, "steps prompts heads"],
    steps: Sequence[int],
    heads: Sequence[str],
    behaviour: Float[np.ndarray, " steps"],
    *,
    seed: int,
    repeats: int = 1000,
) -> list[HeadDynamics]:
    """Date every head's change.

    Args:
        effects: Effect of each head at each checkpoint, on the same prompts throughout, in logits.
        steps: Training step of each checkpoint, rising.
        heads: Names of the heads.
        behaviour: What the model does at each checkpoint, such as its mean logit difference.
        seed: Fixes the shuffles.
        repeats: Shuffles of the checkpoints.

    Raises:
        CircuitlapseError: With fewer than four checkpoints, fewer than two prompts, or shapes that
            disagree.
    """
    n_steps, _, n_heads = effects.shape
    if n_steps < 4 or len(steps) != n_steps or len(heads) != n_heads or len(behaviour) != n_steps:
        raise CircuitlapseError(
            "a change is dated among at least four checkpoints, each with its step and behaviour",
            got=f"effects of {n_steps} checkpoints and {n_heads} heads, {len(steps)} steps, "
            f"{len(heads)} heads, {len(behaviour)} values of behaviour",
            fix="Keep more checkpoints",
        )
    if list(steps) != sorted(set(steps)):
        raise CircuitlapseError("the checkpoints' steps must rise", got=list(steps))
    effects = effects.astype(np.float64)
    means = effects.mean(axis=1)
    cuts, reductions = best_cuts(means)
    rng = np.random.default_rng(seed)
    null = np.stack([best_cuts(means[rng.permutation(n_steps)])[1] for _ in range(repeats)])
    confidence = corrected_confidence(n_heads)
    similarity = SIMILARITIES["pearson"](means.T, np.broadcast_to(behaviour, means.T.shape))
    rows = []
    for i, head in enumerate(heads):
        cut = int(cuts[i])
        pieces = [effects[:cut, :, i].mean(axis=0), effects[cut:, :, i].mean(axis=0)]
        sides = mean_intervals(np.stack(pieces, axis=1), confidence)
        change = mean_intervals((pieces[1] - pieces[0])[:, None], confidence)[0]
        opposite = bool(sides.value[0] * sides.value[1] < 0)
        rows.append(
            HeadDynamics(
                head, int(steps[cut]), float(sides.value[0]), float(sides.value[1]), change,
                p_value(float(reductions[i]), null[:, i]),
                cut in (1, n_steps - 1),
                opposite and bool(sides.excludes_zero.all()),
                float(similarity[i]) if np.isfinite(similarity[i]) else None,
            )
        )  # fmt: skip
    return rows


def best_cuts(
    series: Float[np.ndarray, "steps columns"],
) -> tuple[Int[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Cut every column once, for the smallest sum of squares about the two means.

    Returns:
        Index of the first entry after each cut, and by how much the cut reduces the sum of squares;
        the earliest of equal cuts.
    """
    n = len(series)
    centred = series - series.mean(axis=0)
    sums = centred.cumsum(axis=0)[:-1]
    before = np.arange(1, n)[:, None]
    # Between the pieces' means: the identity of the analysis of variance.
    reduction = sums**2 * n / (before * (n - before))
    best = reduction.argmax(axis=0)
    return best + 1, reduction[best, np.arange(series.shape[1])]


@dataclass(frozen=True)
class Agreement:
    """Whether seeds agree on which heads changed.

    Attributes:
        value: Mean rank correlation of the heads' changes over all pairs of seeds.
        null_mean: The same with head labels shuffled within each layer, for each seed by itself.
        p_value: Share of the shuffles that reach the value.
        flips: How many heads flipped in at least two seeds.
        flips_null_mean: The same under the shuffles.
        flips_p_value: Share of the shuffles that reach that number.
    """

    value: float
    null_mean: float
    p_value: float
    flips: int
    flips_null_mean: float
    flips_p_value: float


def seed_agreement(
    seeds: Sequence[Sequence[HeadDynamics]], *, seed: int, repeats: int = 1000
) -> Agreement:
    """Compare the heads' changes between fine-tuning seeds of one base.

    Which heads change may be chance as far as seeds go: then labels of one layer's heads could as
    well be shuffled in each seed.

    Args:
        seeds: Every seed's rows, with the same heads in the same order.
        seed: Fixes the shuffles.
        repeats: Shuffles.

    Raises:
        CircuitlapseError: With fewer than two seeds, other heads, or changes that are all equal.
    """
    heads = [row.head for row in seeds[0]] if seeds else []
    if len(seeds) < 2 or any([row.head for row in rows] != heads for rows in seeds):
        raise CircuitlapseError(
            "agreement needs at least two seeds with the same heads",
            got=f"{len(seeds)} seeds",
            fix="Fine-tune with more seeds",
        )
    places = [place for place in map(head_of, heads) if place is not None]
    n_layers, n_heads = (1 + max(getattr(p, axis) for p in places) for axis in ("layer", "head"))
    changes = np.array([[row.change.value for row in rows] for rows in seeds])
    ranked = SIMILARITIES["spearman"].prepare(changes)
    if not np.isfinite(ranked).all():
        raise CircuitlapseError("the changes of all heads of a seed are equal", got=changes[:, 0])
    flipped = np.array([[row.flipped for row in rows] for rows in seeds])
    order = np.stack(
        [
            relabel(heads, draw_permutations(n_layers, n_heads, repeats, [seed, index]))
            for index in range(len(seeds))
        ],
        axis=1,
    )
    null = _mean_correlation(np.take_along_axis(ranked[None], order, axis=2))
    flips_null = (np.take_along_axis(flipped[None], order, axis=2).sum(axis=1) >= 2).sum(axis=1)
    value = float(_mean_correlation(ranked[None])[0])
    flips = int((flipped.sum(axis=0) >= 2).sum())
    return Agreement(
        value, float(null.mean()), p_value(value, null),
        flips, float(flips_null.mean()), p_value(float(flips), flips_null.astype(np.float64)),
    )  # fmt: skip


def _mean_correlation(
    ranked: Float[np.ndarray, "repeats seeds heads"],
) -> Float[np.ndarray, " repeats"]:
    """Mean over all pairs of seeds of the product of prepared vectors."""
    n = ranked.shape[1]
    total = np.square(ranked.sum(axis=1)).sum(axis=1) - np.square(ranked).sum(axis=(1, 2))
    return total / (n * (n - 1))


def steps_since(steps: Sequence[int], states: Sequence[str]) -> list[int]:
    """For every step, the first one from which on a head was without a break what it is then.

    Args:
        steps: Steps of the checkpoints, rising.
        states: The head's fate or role at each.
    """
    since: list[int] = []
    for index, step in enumerate(steps):
        same = index > 0 and states[index] == states[index - 1]
        since.append(since[-1] if same else step)
    return since


def epoch_ends(n_items: int, batch_size: int, steps: int) -> list[int]:
    """Steps after which every training item has been seen once more."""
    per_epoch = -(-n_items // batch_size)
    return list(range(per_epoch, steps + 1, per_epoch))


def steps_to_share(
    steps: Sequence[int], values: Float[np.ndarray, "steps prompts"], share: float = 0.9
) -> float | None:
    """Step at which a curve first reaches a share of its rise from the first to the last value.

    Args:
        steps: Steps of the checkpoints, rising.
        values: The curve on each prompt, such as the logit difference; its mean is looked at.
        share: Of the rise.

    Returns:
        Linear between checkpoints; None where the interval of the rise is not above zero: there is
        then nothing to reach a share of.
    """
    if mean_interval(values[-1].astype(np.float64) - values[0]).low <= 0:
        return None
    means = values.mean(axis=1, dtype=np.float64)
    wanted = float(means[0] + share * (means[-1] - means[0]))
    after = int(np.flatnonzero(means >= wanted)[0])
    if after == 0:
        return float(steps[0])
    low, high = float(means[after - 1]), float(means[after])
    part = (wanted - low) / (high - low)
    return float(steps[after - 1] + part * (steps[after] - steps[after - 1]))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitlapse.compare.dynamics import (
    best_cuts,
    epoch_ends,
    head_dynamics,
    seed_agreement,
    steps_since,
    steps_to_share,
)
from circuitlapse.errors import CircuitlapseError

STEPS = list(range(0, 96, 8))


@given(arrays(np.float64, (7, 3), elements=st.floats(-5, 5)))
def test_the_best_cut_is_that_of_the_literal_search(series):
    cuts, reductions = best_cuts(series)
    for column in range(3):
        x = series[:, column]
        whole = ((x - x.mean()) ** 2).sum()
        reduced = [
            whole - sum(((p - p.mean()) ** 2).sum() for p in (x[:cut], x[cut:]))
            for cut in range(1, 7)
        ]
        assert reductions[column] == pytest.approx(max(reduced), abs=1e-9)
        assert reduced[cuts[column] - 1] == pytest.approx(max(reduced), abs=1e-9)


def drawn(seed=0, heads=4, noise=0.3):
    """Heads that step up, flip, stay and drift; all with noise of the prompts."""
    rng = np.random.default_rng(seed)
    late = np.array(STEPS) >= 40
    means = np.stack(
        [1.0 + 2.0 * late, 1.0 - 2.0 * late, np.full(len(STEPS), 0.5), np.zeros(len(STEPS))], axis=1
    )[:, :heads]
    own = rng.normal(size=(1, 50, heads))
    return means[:, None] + 0.1 * own + noise * rng.normal(size=(len(STEPS), 50, heads)), late


def rows(seed=0):
    effects, late = drawn(seed)
    names = [f"a0.h{i}" for i in range(4)]
    return head_dynamics(effects, STEPS, names, late.astype(float), seed=0, repeats=200)


def test_steps_and_flips_are_dated_and_noise_is_not():
    up, flip, flat, zero = rows()
    assert (up.step, flip.step) == (40, 40)
    assert up.p_value < 0.02
    assert not up.flipped
    assert flip.flipped
    assert flip.change.value == pytest.approx(-2, abs=0.1)
    assert flip.change.high < 0
    assert up.with_behaviour is not None
    assert up.with_behaviour > 0.95
    assert flat.p_value > 0.02
    assert not flat.flipped
    assert not zero.flipped


def test_a_change_that_leaves_one_checkpoint_alone_cannot_be_told_by_their_order():
    effects = np.ones((12, 6, 1))
    effects[:1] = 0.0
    effects += np.random.default_rng(0).normal(0, 0.01, effects.shape)
    (found,) = head_dynamics(effects, range(12), ["a0.h0"], effects.mean(axis=(1, 2)), seed=0)
    assert found.alone
    assert found.step == 1
    assert found.change.low > 0.9
    assert found.p_value > 2 / 12 - 0.05  # either end, and twelve checkpoints that may stand there
    assert not rows(0)[0].alone


def test_seeds_agree_where_the_same_heads_change_and_not_where_they_are_others():
    found = seed_agreement([rows(seed) for seed in range(4)], seed=0)
    assert found.value > 0.6
    assert found.p_value < 0.05
    assert found.flips == 1
    assert found.null_mean == pytest.approx(0, abs=0.1)
    names = [f"a0.h{i}" for i in range(4)]
    others = []
    for seed in range(4):
        effects, late = drawn(seed)
        turned = np.roll(effects, seed, axis=2)
        others.append(head_dynamics(turned, STEPS, names, late * 1.0, seed=0, repeats=50))
    apart = seed_agreement(others, seed=0)
    assert apart.p_value > 0.2
    assert apart.flips == 0


def spread_out(curve, noise=0.1):
    """Prompts around the curve, with the same mean."""
    return np.array(curve)[:, None] + noise * np.linspace(-1, 1, 20)


def test_curves_reach_their_share_between_checkpoints():
    curve = spread_out([1.0, 1.0, 3.0, 5.0, 5.0])
    assert steps_to_share([0, 8, 16, 24, 32], curve, 0.5) == 16
    assert steps_to_share([0, 8, 16, 24, 32], curve, 0.75) == 20
    assert steps_to_share([0, 8], spread_out([2.0, 2.0])) is None
    assert steps_to_share([0, 8], spread_out([2.0, 1.0])) is None


def test_a_rise_that_could_be_none_has_no_share_to_reach():
    curve = spread_out([1.0, 1.02])
    curve[1] += np.tile([-1.0, 1.0], 10)
    assert steps_to_share([0, 8], curve) is None
    assert steps_to_share([0, 8], spread_out([1.0, 1.02])) == pytest.approx(7.2)


def test_states_last_since_their_first_step_without_a_break():
    fates = ["kept", "grew", "kept", "kept"]
    assert steps_since([0, 8, 16, 24], fates) == [0, 8, 16, 16]
    assert steps_since([0, 8], ["kept", "kept"]) == [0, 0]
    assert steps_since([], []) == []


def test_epochs_end():
    assert epoch_ends(100, 32, 12) == [4, 8, 12]


def test_refusals():
    effects, _ = drawn()
    names = [f"a0.h{i}" for i in range(4)]
    with pytest.raises(CircuitlapseError, match="at least four checkpoints.*Keep more"):
        head_dynamics(effects[:3], STEPS[:3], names, np.zeros(3), seed=0)
    with pytest.raises(CircuitlapseError, match="steps must rise"):
        head_dynamics(effects, STEPS[::-1], names, np.zeros(12), seed=0)
    with pytest.raises(CircuitlapseError, match="at least two seeds"):
        seed_agreement([rows()], seed=0)

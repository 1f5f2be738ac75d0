import numpy as np
import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.dynamics import (
    behaviour_correlation,
    changes,
    epoch_ends,
    head_changes,
    steps_since,
)
from circuitlapse.stats.intervals import mean_interval

STEPS = list(range(0, 96, 8))


def drawn(noise=0.3):
    """Heads that step up, change sign, and stay; all with noise of the prompts."""
    rng = np.random.default_rng(0)
    late = np.array(STEPS) >= 40
    means = np.stack([1.0 + 2.0 * late, 1.0 - 2.0 * late, np.full(len(STEPS), 0.5)], axis=1)
    own = rng.normal(size=(1, 50, 3))
    return means[:, None] + 0.1 * own + noise * rng.normal(size=(len(STEPS), 50, 3)), late


def test_changes_and_sign_changes_are_dated_and_noise_is_not():
    effects, late = drawn()
    up, flip, flat = head_changes(effects, STEPS)
    for change in (up, flip):
        assert change.step_of_90 is not None
        assert 32 < change.step_of_90 <= 40
    assert not up.sign_changed
    assert flip.sign_changed
    assert flip.change.high < 0
    assert flip.before == pytest.approx(effects[0, :, 1].mean())
    assert flip.after == pytest.approx(effects[-1, :, 1].mean())
    assert flip.change.value == pytest.approx(flip.after - flip.before)
    assert flat.step_of_90 is None
    assert not flat.sign_changed
    found = behaviour_correlation(effects, late.astype(float))
    assert found[:2] == pytest.approx([1, -1], abs=0.05)
    assert behaviour_correlation(effects, np.zeros(len(STEPS))) == [None] * 3


def test_the_intervals_of_heads_hold_together():
    effects, _ = drawn()
    (alone,), (first, *_) = changes(effects[..., :1], STEPS), head_changes(effects, STEPS)
    assert alone.change == mean_interval(effects[-1, :, 0] - effects[0, :, 0])
    assert first.change.low < alone.change.low


def spread_out(curve, noise=0.1):
    """Prompts around the curve, with the same mean."""
    return (np.array(curve)[:, None] + noise * np.linspace(-1, 1, 20))[..., None]


@pytest.mark.parametrize("sign", [1, -1])
def test_nine_tenths_are_reached_between_checkpoints(sign):
    curve = sign * spread_out([1.0, 1.0, 3.0, 6.0, 5.0])
    assert changes(curve, [0, 8, 16, 24, 32])[0].step_of_90 == pytest.approx(16 + 8 * 1.6 / 3)
    assert changes(sign * spread_out([1.0, 1.02]), [0, 8])[0].step_of_90 == pytest.approx(7.2)


def test_a_change_that_could_be_none_has_no_date():
    curve = spread_out([1.0, 1.02])
    curve[1, :, 0] += np.tile([-1.0, 1.0], 10)
    assert changes(curve, [0, 8])[0].step_of_90 is None
    assert changes(spread_out([2.0, 2.0]), [0, 8])[0].step_of_90 is None


def test_states_last_since_their_first_step_without_a_break():
    changes = ["kept", "grew", "kept", "kept"]
    assert steps_since([0, 8, 16, 24], changes) == [0, 8, 16, 16]
    assert steps_since([0, 8], ["kept", "kept"]) == [0, 0]
    assert steps_since([], []) == []


def test_epochs_end():
    assert epoch_ends(100, 32, 12) == [4, 8, 12]


def test_refusals():
    effects, _ = drawn()
    for wrong, steps in ((effects[:1], STEPS[:1]), (effects, STEPS[::-1]), (effects, STEPS[1:])):
        with pytest.raises(CircuitlapseError, match="with rising steps.*Keep more"):
            changes(wrong, steps)

"""CPR and CMD against MIB's definition worked out by hand, and when they are not reported."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.attribution.edges import attribute
from circuitlapse.circuits.curve import cmd, cpr, faithfulness_curve
from circuitlapse.circuits.evaluate import CircuitEvaluation
from circuitlapse.config.experiment import MIB_FRACTIONS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from twins_engine import random_pairs, tiny_gpt2


def _curve(faithfulness: list[float], n: int = 4, noise: float = 0.0) -> list[CircuitEvaluation]:
    """Evaluations with given faithfulness, m(∅) = 1 and m(M) = 3 on average."""
    spread = noise * torch.linspace(-1, 1, n)
    clean, empty = 3 + spread, 1 - spread
    return [
        CircuitEvaluation(empty + f * (clean - empty).mean() + spread, clean, empty, 5)
        for f in faithfulness
    ]


def test_the_areas_are_trapezoids_between_the_sizes():
    curve, sizes = _curve([-0.5, 1.5, 1.0]), [0.1, 0.5, 1.0]
    # 0.4 · (−0.5 + 1.5)/2 + 0.5 · (1.5 + 1)/2, and 0.4 · (1.5 + 0.5)/2 + 0.5 · (0.5 + 0)/2
    assert cpr(curve, sizes).value == pytest.approx(0.825)
    assert cmd(curve, sizes).value == pytest.approx(0.525)


def test_a_faithful_circuit_of_any_size_has_mibs_best_areas():
    curve = _curve([1.0] * len(MIB_FRACTIONS))
    assert cpr(curve).value == pytest.approx(0.999)
    assert cmd(curve).value == pytest.approx(0.0)


def _mib(faithfulness: list[float], fractions: list[float]) -> tuple[float, float]:
    """The loop over neighbouring sizes, literally."""
    area, distance = 0.0, 0.0
    for i in range(len(fractions) - 1):
        step = fractions[i + 1] - fractions[i]
        left, right = faithfulness[i], faithfulness[i + 1]
        area += step * (left + right) / 2
        distance += step * (abs(1 - left) + abs(1 - right)) / 2
    return area, distance


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3), min_size=10, max_size=10), st.floats(0, 0.4))
def test_the_areas_are_mibs(values, noise):
    curve = _curve(values, noise=noise)
    area, distance = _mib([one.faithfulness for one in curve], list(MIB_FRACTIONS))
    assert cpr(curve).value == pytest.approx(area, abs=1e-5)
    assert cmd(curve).value == pytest.approx(distance, abs=1e-5)


def test_the_areas_of_a_real_curve_have_intervals():
    model, pairs = load_model(tiny_gpt2(4)), random_pairs(4, n=60)
    scores = attribute(model, pairs, "eap")
    sizes = (0.1, 0.4, 1.0)
    for ablation in ("corrupt", "mean", "zero"):
        curve = faithfulness_curve(
            model, scores, pairs, sizes, by="signed", grow="greedy", ablation=ablation
        )
        if curve[0].why_undefined:
            continue
        area, distance = _mib([one.faithfulness for one in curve], list(sizes))
        for found, value in ((cpr(curve, sizes), area), (cmd(curve, sizes), distance)):
            assert found.value == pytest.approx(value, rel=1e-4)
            assert found.low < found.high
        assert cpr(curve, sizes) == cpr(curve, sizes)
        assert cpr(curve, sizes) != cpr(curve, sizes, seed=1)


def test_areas_without_a_denominator_are_not_reported():
    flat = torch.tensor([1.0, 2.0, 3.0])
    curve = [CircuitEvaluation(flat, flat, flat, 1)] * 2
    with pytest.raises(
        CircuitlapseError, match=r"CMD is undefined.*not clear of zero: 0 .*prompts"
    ):
        cmd(curve, [0.5, 1.0])


def test_sizes_that_do_not_fit_are_refused():
    curve = _curve([0.5, 1.0])
    with pytest.raises(CircuitlapseError, match="2 evaluations and 10 sizes"):
        cpr(curve)
    with pytest.raises(CircuitlapseError, match="sizes of CPR must grow"):
        cpr(curve, [1.0, 0.5])


def test_curves_over_different_prompts_are_refused():
    mixed = [_curve([0.5])[0], _curve([1.0], noise=0.3)[0]]
    with pytest.raises(CircuitlapseError, match="same prompts and ablation"):
        cpr(mixed, [0.5, 1.0])

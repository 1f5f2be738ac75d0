import pytest
import torch

from circuitlapse.compare.random_change import random_change
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models import load_model
from twins_engine import tiny


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}


def test_every_tensor_changes_by_its_own_norm_and_in_its_own_direction():
    base, tuned = load_model(tiny("gpt2", 0)), load_model(tiny("gpt2", 1))
    weights(tuned)
    untouched = "transformer.h.0.attn.c_attn.weight"
    dict(tuned.hf.named_parameters())[untouched].data.copy_(weights(base)[untouched])
    before, after = weights(base), weights(tuned)
    drawn = [weights(random_change(base, tuned, seed)) for seed in (0, 0, 1)]
    for name, old in before.items():
        wanted = (after[name] - old).norm()
        changes = [each[name] - old for each in drawn]
        assert [float(change.norm()) for change in changes] == pytest.approx(
            [float(wanted)] * 3, rel=1e-4, abs=1e-7
        )
        assert torch.equal(changes[0], changes[1])
        if name != untouched:
            assert not torch.allclose(changes[0], changes[2])
            assert not torch.allclose(changes[0], after[name] - old)
    assert all(torch.equal(weight, weights(base)[name]) for name, weight in before.items())


def test_models_of_other_shapes_are_refused():
    with pytest.raises(CircuitlapseError, match="differ in the shape of"):
        random_change(load_model(tiny("gpt2")), load_model(tiny("gpt2", vocab_size=29)), 0)

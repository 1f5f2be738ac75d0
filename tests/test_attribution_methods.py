"""Every attribution method on every family against its literal twin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import twins_attribution as twins
from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.neurons import neuron_scores
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import neuron_effects, node_effects
from circuitlapse.prompts.pairs import PromptPairs
from families import every_family, three_families
from twins_engine import Literal, random_pairs, tiny, tiny_gpt2


def _close(ours: torch.Tensor, twin: torch.Tensor, relative: float = 1e-4) -> None:
    assert float(twin.abs().max()) > 1e-2
    torch.testing.assert_close(
        ours.double(), twin, rtol=relative, atol=relative * float(twin.abs().max())
    )


def _halves(each: torch.Tensor) -> torch.Tensor:
    return torch.stack([each[0::2].mean(dim=0), each[1::2].mean(dim=0)])


@every_family
def test_exact_scores_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(11, n=2, longest=6)
    scores = attribute(load_model(hf, dtype="float64"), pairs, "exact")
    twin = twins.exact(Literal(hf), pairs)
    _close(scores.mean, twin.mean(dim=0), 1e-5)
    _close(scores.halves, _halves(twin), 1e-5)


@every_family
def test_interpolated_activations_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(12, n=2, longest=6)
    scores = attribute(load_model(hf), pairs, "eap-ig-activations", steps=2)
    twin = twins.activations(Literal(hf), pairs, 2)
    _close(scores.mean, twin.mean(dim=0))
    _close(scores.halves, _halves(twin))


@every_family
def test_the_qk_fix_is_the_literal_one(family):
    hf, pairs = tiny(family), random_pairs(13, n=2, longest=6)
    scores = attribute(load_model(hf), pairs, "eap", qk_fix=True)
    twin = twins.qk_fixed(twins.Probed(hf), pairs)
    _close(scores.mean, twin.mean(dim=0))
    _close(scores.halves, _halves(twin))
    unfixed = attribute(load_model(hf), pairs, "eap")
    assert not torch.allclose(scores.mean, unfixed.mean, atol=1e-3)


@every_family
@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs"])
def test_neurons_are_the_literal_ones_and_add_up_to_their_mlp(family, method):
    hf, pairs = tiny(family), random_pairs(14, n=4)
    model, points = load_model(hf), [1.0] if method == "eap" else [0.0, 0.5]
    scores = neuron_scores(model, pairs, method, steps=2)
    _close(scores, twins.neurons(Literal(hf), pairs, points).mean(dim=0))
    totals = attribute(model, pairs, method, steps=2).node_totals()
    mlps = totals.view(model.graph.n_layers, -1)[:, -1]
    torch.testing.assert_close(scores.sum(dim=1), mlps, rtol=1e-4, atol=1e-5)


@three_families
def test_neurons_in_runs_that_hold_a_node_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(12, n=2, longest=6)
    model, method = load_model(hf), "eap-ig-activations"
    scores = neuron_scores(model, pairs, method, steps=2)
    _close(scores, twins.held_neurons(Literal(hf), pairs, 2).mean(dim=0))
    totals = attribute(model, pairs, method, steps=2).node_totals()
    mlps = totals.view(model.graph.n_layers, -1)[:, -1]
    torch.testing.assert_close(scores.sum(dim=1), mlps, rtol=1e-4, atol=1e-5)


@three_families
def test_groups_of_neurons_are_patched_as_in_a_whole_run(family):
    hf, pairs = tiny(family), random_pairs(14, n=4)
    model, d_mlp = load_model(hf), len(load_model(hf).decoder.mlp[0].W_out)
    groups = [(0, [3, 1]), (1, range(d_mlp)), (0, range(d_mlp)), (1, [2]), (0, [])]
    effects = neuron_effects(model, pairs, groups, batch_size=3)
    _close(effects, twins.patched_neurons(Literal(hf), pairs, groups))
    nodes = node_effects(model, pairs).view(4, model.graph.n_layers, -1)[:, :, -1]
    torch.testing.assert_close(effects[:, [2, 1]], nodes, rtol=1e-5, atol=1e-5)
    assert (effects[:, 4] == 0).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [("exact", {}), ("eap-ig-activations", {"steps": 2}), ("eap", {"qk_fix": True})],
)
@settings(max_examples=4)
@given(seed=st.integers(0, 1000), n=st.integers(2, 4), size=st.integers(1, 3))
def test_no_method_depends_on_batches_or_padding(method, options, seed, n, size):
    pairs = random_pairs(seed, n, longest=3 + seed % 4)
    model = load_model(tiny_gpt2(seed, layers=1, heads=2), dtype="float64")
    whole = attribute(model, pairs, method, **options)
    parts = attribute(model, pairs, method, batch_size=size, **options)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts.halves, whole.halves, rtol=1e-6, atol=1e-6)


METHODS = {
    "eap": lambda model, pairs: attribute(model, pairs, "eap", metric="log_prob").mean,
    "inputs": lambda model, pairs: attribute(model, pairs, steps=2, metric="log_prob").mean,
    "activations": lambda model, pairs: (
        attribute(model, pairs, "eap-ig-activations", steps=2, metric="log_prob").mean
    ),
    "exact": lambda model, pairs: attribute(model, pairs, "exact", metric="log_prob").mean,
    "qk_fix": lambda model, pairs: (
        attribute(model, pairs, "eap", qk_fix=True, metric="log_prob").mean
    ),
    "neurons": lambda model, pairs: neuron_scores(model, pairs, steps=2, metric="log_prob"),
    "held neurons": lambda model, pairs: neuron_scores(
        model, pairs, "eap-ig-activations", steps=2, metric="log_prob"
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_answers_of_several_tokens_add_up_over_the_tokens(method):
    """A log probability is a sum, so its scores are those of the tokens as prompts of their own."""
    model, pairs = load_model(tiny("qwen2"), dtype="float64"), random_pairs(4, n=2, longest=5)
    answers = torch.tensor([[3, 8, 1], [5, 2, -1]])
    mask = (torch.arange(pairs.clean.shape[1]) < pairs.lengths[:, None]).long()
    pairs = PromptPairs.from_tensors(pairs.clean, pairs.corrupt, answers, attention_mask=mask)
    whole, total = METHODS[method](model, pairs), torch.zeros(())
    for row, length in enumerate(pairs.lengths.tolist()):
        answer = answers[row][answers[row] >= 0]
        for k in range(len(answer)):
            sides = [
                torch.cat([side[row, :length], answer[:k]])[None]
                for side in (pairs.clean, pairs.corrupt)
            ]
            one = PromptPairs.from_tensors(sides[0], sides[1], answer[k : k + 1])
            total = total + METHODS[method](model, one) / len(pairs)
    assert float(whole.abs().max()) > 1e-2
    torch.testing.assert_close(whole, total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "relative"), [("bfloat16", 0.1), ("float16", 0.02)])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_gives_nearly_the_scores_of_the_same_weights(method, dtype, relative):
    half, pairs = load_model(tiny("gpt2"), dtype=dtype), random_pairs(5, n=3)
    double = METHODS[method](load_model(half.hf, dtype="float64"), pairs)
    scores = METHODS[method](half, pairs)
    assert scores.dtype == torch.float32
    largest = float(double.abs().max())
    torch.testing.assert_close(scores, double, rtol=0, atol=relative * largest)


@pytest.mark.parametrize("method", ["eap", "inputs", "activations", "qk_fix", "neurons"])
def test_scores_are_not_rounded_to_half_precision(method):
    """Sums in half precision would be numbers that it can hold."""
    pairs = random_pairs(5, n=1)
    scores = METHODS[method](load_model(tiny("gpt2"), dtype="bfloat16"), pairs)
    found = scores[scores != 0]
    assert float((found != found.bfloat16()).float().mean()) > 0.9


@pytest.mark.parametrize("family", ["llama", "pythia", "gpt2"])
def test_a_large_residual_stream_does_not_overflow_in_half_precision(family):
    hf, pairs = tiny(family, hidden_size=16), random_pairs(5, n=3)
    with torch.no_grad():
        hf.get_input_embeddings().weight.mul_(2000)
    half = load_model(hf, dtype="float16")
    double = attribute(load_model(half.hf, dtype="float64"), pairs).mean
    scores = attribute(half, pairs).mean
    for column in range(len(half.graph.readers)):
        largest = float(double[:, column].abs().max())
        assert largest > 0
        torch.testing.assert_close(
            scores[:, column], double[:, column], rtol=0, atol=0.05 * largest
        )

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.activations import NewGELUActivation

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import (
    behaviour,
    corrupt_logit_difference,
    logit_differences,
)
from circuitlapse.models.engine.context import Context
from circuitlapse.models.engine.shared_prefix import Suffixes, each_batch
from circuitlapse.models.families.parts import gelu_
from circuitlapse.models.files.load import load_model
from twins_engine import Literal, random_pairs, tiny_gpt2

VARIANTS = {
    "plain": {},
    "one layer": {"layers": 1},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "unscaled": {"scale_attn_weights": False},
    "another MLP": {"n_inner": 20, "activation_function": "relu"},
    "untied": {"tie_word_embeddings": False},
}


def _their_metric(hf, tokens, pairs) -> torch.Tensor:
    """The metric from transformers' logits, prompt by prompt and without padding."""
    result = []
    for row in range(len(pairs)):
        logits = hf(tokens[row : row + 1, : int(pairs.lengths[row])]).logits[0, -1]
        result.append(logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean())
    return torch.stack(result)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_are_those_of_transformers(options):
    hf = tiny_gpt2(**options)
    decoder, pairs = load_model(hf).decoder, random_pairs(1)
    with torch.no_grad():
        context = Context(pairs.logit_positions())
        ours = decoder.logits(decoder.run(decoder.embed(pairs.clean), context))[:, 0]
        for row in range(len(pairs)):
            theirs = hf(pairs.clean[row : row + 1, : int(pairs.lengths[row])]).logits[0, -1]
            torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("taped", [False, True], ids=["plain", "with a gradient"])
@pytest.mark.parametrize(
    ("dtype", "within"), [("float64", 1e-12), ("float32", 1e-6), ("bfloat16", 1e-2)]
)
def test_gelu_is_its_definition(dtype, within, taped):
    ends = torch.tensor([-1e30, -1e4, -0.0, 0.0, 1e4, 1e30], dtype=torch.float64)
    x = torch.cat([torch.linspace(-12, 12, 2001, dtype=torch.float64), ends])
    x = x.to(getattr(torch, dtype))
    x = x.repeat(50)  # more than is done at a time
    definition = NewGELUActivation()(x.double())
    given = x.clone()
    found = gelu_(x.requires_grad_(taped)).detach()
    assert found.dtype == x.dtype
    if taped or dtype == "bfloat16":
        assert torch.equal(x, given)
    else:
        assert found.data_ptr() == x.data_ptr()
    assert torch.equal(found, gelu_(given.clone()))  # bit for bit, with or without a gradient
    torch.testing.assert_close(found.double(), definition, rtol=within, atol=within)


def test_the_gradient_of_gelu_is_that_of_its_definition():
    x = torch.linspace(-12, 12, 2001, dtype=torch.float64, requires_grad=True)
    weights = torch.linspace(1, 2, 2001, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((f(x) * weights).sum(), x)[0] for f in (gelu_, NewGELUActivation())
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 9), st.integers(2, 12))
def test_the_metric_does_not_depend_on_prefix_padding_or_batches(seed, n, size, longest):
    hf, pairs = tiny_gpt2(seed), random_pairs(seed, n, longest)
    model = load_model(hf)
    clean, corrupt = logit_differences(model, pairs, batch_size=size)
    assert torch.equal(corrupt_logit_difference(model, pairs, batch_size=size), corrupt)
    with torch.no_grad():
        torch.testing.assert_close(
            clean, _their_metric(hf, pairs.clean, pairs), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            corrupt, _their_metric(hf, pairs.corrupt, pairs), rtol=1e-4, atol=1e-4
        )


def test_the_literal_twin_is_the_transformers_model():
    hf, pairs = tiny_gpt2(3), random_pairs(3)
    literal = Literal(hf)
    with torch.no_grad():
        for clean, _, _ in literal.prompts(pairs):
            theirs = literal.hf(clean[None]).logits[0, -1]
            torch.testing.assert_close(literal.plain(clean)[0], theirs)


def only_batch(decoder, pairs) -> Suffixes:
    found: list[Suffixes] = []
    each_batch(decoder, pairs, 1, found.append)
    (batch,) = found
    return batch


def test_variants_of_a_batch_run_together():
    decoder, pairs = load_model(tiny_gpt2()).decoder, random_pairs(2)
    batch = only_batch(decoder, pairs)
    both = decoder.run(torch.cat([batch.clean, batch.corrupt]), batch.context)
    alone = [decoder.run(x, batch.context) for x in (batch.clean, batch.corrupt)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_a_run_can_begin_at_any_layer():
    decoder, pairs = load_model(tiny_gpt2(layers=3)).decoder, random_pairs(2)
    batch = only_batch(decoder, pairs)
    trace = decoder.trace(batch.clean, batch.context)
    whole = trace[-1].resid_post
    for layer, step in enumerate(trace):
        torch.testing.assert_close(decoder.run(step.resid_pre, batch.context, layer), whole)
    torch.testing.assert_close(decoder.run(trace[-1].resid_post, batch.context, 3), whole)


def test_the_decoder_follows_weights_that_change_in_place():
    hf, pairs = tiny_gpt2(), random_pairs(2)
    model = load_model(hf)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.mul_(0.7)
        after, _ = logit_differences(model, pairs)
        torch.testing.assert_close(after, _their_metric(hf, pairs.clean, pairs))


def test_behaviour_reads_the_whole_vocabulary():
    hf, pairs = tiny_gpt2(), random_pairs(4, n=40)
    ours = behaviour(load_model(hf), pairs, batch_size=7)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(ours.logit_diff), _their_metric(hf, pairs.clean, pairs)
        )
        for row in range(len(pairs)):
            logits = hf(pairs.clean[row : row + 1, : int(pairs.lengths[row])]).logits[0, -1]
            answer = int(pairs.answers[row])
            assert bool(ours.correct[row]) == (int(logits.argmax()) == answer)
            best = float(logits[pairs.distractors[row]].max())
            assert bool(ours.candidate_correct[row]) == (float(logits[answer]) > best)
    assert 0 < int(ours.candidate_correct.sum()) < 40


def test_a_constant_model_answers_nothing():
    hf = tiny_gpt2()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
    ours = behaviour(load_model(hf), random_pairs(4))
    assert not ours.correct.any()
    assert not ours.candidate_correct.any()


def test_prompts_beyond_the_context_are_refused():
    with pytest.raises(CircuitlapseError, match=r"at most 16 tokens in this model \(got 20\)"):
        behaviour(load_model(tiny_gpt2()), random_pairs(0, n=60, longest=20))


def test_unknown_token_ids_are_refused():
    pairs = random_pairs(0, vocab=40, n=20)
    with pytest.raises(CircuitlapseError, match=r"clean must lie between 0 and 22 .*tokenizer"):
        logit_differences(load_model(tiny_gpt2()), pairs)

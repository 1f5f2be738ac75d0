"""Readings against the model written down component by component, in float64, prompt by prompt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.prompts.positions import token_positions
from circuitlapse.reading.attention import (
    attention_between,
    attention_of_each,
    attention_of_layers,
    attention_patterns,
)
from circuitlapse.reading.direct import direct_logit_attribution
from circuitlapse.reading.lens import logit_lens
from circuitlapse.reading.read_all import read_all
from families import every_family, three_families
from twins_engine import FAMILIES, Literal, random_pairs, tiny, tiny_gpt2
from twins_reading import patterns, streams


@every_family
@pytest.mark.parametrize("mid", [False, True])
def test_the_lens_is_the_literal_one(family, mid):
    hf, pairs = tiny(family), random_pairs(3)
    found = logit_lens(load_model(hf), pairs, mid=mid)
    twin = Literal(hf)
    for row, (clean, _, metric) in enumerate(twin.prompts(pairs)):
        for point, x in enumerate(streams(twin, clean)[:: 1 if mid else 2]):
            with torch.no_grad():
                literal = metric(twin.hf.get_output_embeddings()(twin.norm(x[-1])))
            torch.testing.assert_close(found[point, row].double(), literal, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", ["log_prob", "neg_kl", "accuracy"])
def test_the_lens_reads_any_metric_of_answers_of_several_tokens(metric):
    model, base = load_model(tiny_gpt2(layers=3)), random_pairs(4)
    answers = torch.stack([base.answers, base.distractors[:, 0]], dim=1)
    answers[1, 1] = -1
    mask = (torch.arange(base.clean.shape[1]) < base.lengths[:, None]).long()
    pairs = PromptPairs.from_tensors(base.clean, base.corrupt, answers, attention_mask=mask)
    found = logit_lens(model, pairs, metric)
    assert found.shape == (4, 5)
    torch.testing.assert_close(found, logit_lens(model, pairs, metric, batch_size=2))
    if metric == "neg_kl":
        torch.testing.assert_close(found[-1], torch.zeros(5), rtol=0, atol=1e-6)
        assert (found[:-1] < 0).all()
    if metric == "accuracy":
        assert np.array_equal(found[-1].bool(), behaviour(model, pairs).correct)


@every_family
def test_direct_contributions_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(5)
    found = direct_logit_attribution(load_model(hf), pairs)
    twin = Literal(hf)
    unembedding = twin.hf.get_output_embeddings().weight
    for row, (clean, _, metric) in enumerate(twin.prompts(pairs)):
        with torch.no_grad():
            logits, outputs = twin.plain(clean)
            final = streams(twin, clean)[-1][-1]
            for index, name in enumerate(twin.graph.writers):
                # The frozen normalisation is linear: its change when the component is taken out.
                part = outputs[name][-1]
                if hasattr(twin.norm, "bias"):
                    scale = (final.var(correction=0) + twin.norm.eps).sqrt()
                    part = part - part.mean()
                else:
                    scale = (final.square().mean() + twin.norm.variance_epsilon).sqrt()
                literal = metric(unembedding @ (part / scale * twin.norm.weight))
                torch.testing.assert_close(
                    found.writers[index, row].double(), literal, rtol=1e-4, atol=1e-4
                )
            torch.testing.assert_close(
                found.total[row].double(), metric(logits), rtol=1e-4, atol=1e-4
            )


@settings(max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from(sorted(FAMILIES)), st.integers(1, 9))
def test_direct_contributions_add_up_to_the_logit_difference(seed, family, batch_size):
    model, pairs = load_model(tiny(family, seed)), random_pairs(seed, n=7)
    found = direct_logit_attribution(model, pairs, batch_size=batch_size)
    expected = torch.from_numpy(behaviour(model, pairs).logit_diff)
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.input + found.heads.sum() + found.mlps.sum() + found.constant.mean(),
        expected.mean(),
        rtol=1e-4,
        atol=1e-4,
    )


@three_families
def test_direct_contributions_of_a_half_precision_model_are_nearly_those_of_its_weights(family):
    half, pairs = load_model(tiny(family), dtype="bfloat16"), random_pairs(5)
    single = direct_logit_attribution(load_model(half.hf, dtype="float32"), pairs).writers
    found = direct_logit_attribution(half, pairs).writers
    largest = float(single.abs().max())
    torch.testing.assert_close(found, single, rtol=0, atol=0.05 * largest)


def test_contributions_are_listed_by_component():
    model, pairs = load_model(tiny_gpt2()), random_pairs(1)
    found = direct_logit_attribution(model, pairs)
    frame = found.to_frame()
    assert frame["component"].to_list() == [*model.graph.writers, "constant"]
    values = dict(frame.iter_rows())
    assert values["a1.h2"] == pytest.approx(float(found.heads[1, 2]), abs=1e-6)
    assert values["m0"] == pytest.approx(float(found.mlps[0]), abs=1e-6)
    assert sum(values.values()) == pytest.approx(float(found.total.mean()), abs=1e-5)
    torch.testing.assert_close(found.attentions, found.heads.sum(dim=1))


def test_only_a_logit_difference_can_be_split():
    base = random_pairs(1)
    without = PromptPairs.from_tensors(base.clean, base.corrupt, base.answers)
    with pytest.raises(CircuitlapseError, match="needs distractors"):
        direct_logit_attribution(load_model(tiny_gpt2()), without)


@every_family
def test_patterns_are_the_literal_ones(family):
    hf, pairs = tiny(family), random_pairs(7)
    model, twin = load_model(hf), Literal(hf)
    for layer in range(model.graph.n_layers):
        found = attention_patterns(model, pairs, layer, batch_size=2)
        width = int(pairs.lengths.max())
        assert found.shape == (len(pairs), model.graph.n_heads, width, width)
        for row, (clean, _, _) in enumerate(twin.prompts(pairs)):
            n = len(clean)
            literal = patterns(twin, clean)[layer]
            torch.testing.assert_close(
                found[row, :, :n, :n].double(), literal, rtol=1e-4, atol=1e-5
            )
            assert not found[row, :, n:].any()
            assert not found[row, :, :, n:].any()
    unpadded = attention_patterns(model, pairs.clean[:, :2], 0)
    torch.testing.assert_close(unpadded, attention_patterns(model, pairs, 0)[:, :, :2, :2])


def named_pairs(seed: int = 2) -> PromptPairs:
    """Prompts with two named positions, ``here`` not to the left of ``there``."""
    base = random_pairs(seed, n=9)
    mask = (torch.arange(base.clean.shape[1]) < base.lengths[:, None]).long()
    here = base.lengths - 1 - (base.lengths > 3).long()
    places = {"here": here, "there": here // 2, "END": base.lengths - 1}
    return PromptPairs.from_tensors(
        base.clean, base.corrupt, base.answers, base.distractors, mask, places
    )


@three_families
@pytest.mark.parametrize("batch_size", [None, 2])
def test_attention_between_positions_is_the_mean_of_its_weights(family, batch_size):
    hf, pairs = tiny(family), named_pairs()
    found = attention_between(load_model(hf), pairs, "here", "there", batch_size)
    twin, total = Literal(hf), torch.zeros(())
    for row, (clean, _, _) in enumerate(twin.prompts(pairs)):
        query, key = (int(pairs.positions[name][row]) for name in ("here", "there"))
        total = total + patterns(twin, clean)[:, :, query, key]
    torch.testing.assert_close(found.double(), total / len(pairs), rtol=1e-4, atol=1e-5)


@three_families
@pytest.mark.parametrize("batch_size", [None, 2])
def test_what_is_read_together_is_what_each_reads(family, batch_size):
    model, pairs = load_model(tiny(family)), named_pairs()
    ways = [("here", "there"), ("END", "here-1")]
    once = read_all(model, pairs, ways, batch_size)
    direct = direct_logit_attribution(model, pairs)
    for found, alone in (
        (once.lens, logit_lens(model, pairs)),
        (once.direct.writers, direct.writers),
        (once.direct.constant, direct.constant),
        (once.attention, attention_of_each(model, pairs, ways)),
    ):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_several_layers_patterns_are_those_of_each():
    model, pairs = load_model(tiny_gpt2(layers=3)), named_pairs()
    found = attention_of_layers(model, pairs, [2, 0], batch_size=2)
    alone = [attention_patterns(model, pairs, layer) for layer in (2, 0)]
    torch.testing.assert_close(found, torch.stack(alone, dim=1))


def test_a_position_may_be_shifted():
    model, pairs = load_model(tiny_gpt2()), named_pairs()
    same = attention_between(model, pairs, "END", "here-0")
    torch.testing.assert_close(same, attention_between(model, pairs, "END", "here"))
    before = attention_between(model, pairs, "END", "END-1")
    expected = torch.stack(
        [
            torch.stack(
                [
                    attention_patterns(model, pairs, layer)[row, :, end, end - 1]
                    for row, end in enumerate((pairs.lengths - 1).tolist())
                ]
            ).mean(dim=0)
            for layer in range(2)
        ]
    )
    torch.testing.assert_close(before, expected)


def test_a_position_whose_name_ends_like_a_shift_is_found_by_its_name():
    pairs = named_pairs()
    ends = pairs.lengths - 1
    pairs = replace(pairs, positions={"t": ends, "t-1": 0 * ends})
    assert token_positions(pairs, "t-1").tolist() == [0] * len(pairs)
    assert token_positions(pairs, "t-1+1").tolist() == [1] * len(pairs)
    assert token_positions(pairs, "t+0").tolist() == ends.tolist()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("END", "IO", r"no such position \(got 'IO'\).*here, there, END, or one with a shift"),
        ("END+1", "here", r"position END\+1 lies outside its prompt \(got .prompt 0.\)\. Use a"),
        ("there", "END", r"END is to the right of there, .*Pass source='END'"),
    ],
)
def test_positions_that_cannot_be_read_are_refused(source, target, message):
    with pytest.raises(CircuitlapseError, match=message):
        attention_between(load_model(tiny_gpt2()), named_pairs(), source, target)


def test_what_is_no_prompt_or_layer_is_refused():
    model = load_model(tiny_gpt2())
    with pytest.raises(
        CircuitlapseError, match=r"no such layer \(got 2\)\. Pass a number from 0 to 1"
    ):
        attention_patterns(model, random_pairs(1), 2)
    with pytest.raises(CircuitlapseError, match=r"token ids, \[prompts, pos\] .*shape \(3,\)"):
        attention_patterns(model, torch.arange(3), 0)
    with pytest.raises(CircuitlapseError, match="must lie between 0 and 22"):
        attention_patterns(model, torch.full((1, 3), 23), 0)

import numpy as np
import pytest
import torch

import circuitlapse.two_models.fit_scales as gains_module
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.two_models.fit_scales import OutputScales, ScaleFits, rescaled
from families import every_family, parametrize
from twins_compare import LiteralMix
from twins_engine import random_pairs, tiny


def drawn(graph, seed=0, low=-1.0, high=3.0):
    generator = torch.Generator().manual_seed(seed)
    nodes = low + (high - low) * torch.rand(len(graph.nodes), generator=generator)
    return OutputScales(graph, nodes, torch.ones(len(nodes)))


@every_family
def test_scales_put_into_the_base_are_found_again(family):
    base, pairs = load_model(tiny(family)), random_pairs(0)
    true = drawn(base.graph)
    tuned = rescaled(base, true)
    fit = ScaleFits(base, tuned, pairs).fit()
    torch.testing.assert_close(fit.nodes, true.nodes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fit.fit, torch.ones(len(fit.fit)), atol=1e-5, rtol=0)
    again = behaviour(rescaled(base, fit), pairs).logit_diff
    torch.testing.assert_close(again, behaviour(tuned, pairs).logit_diff, atol=1e-4, rtol=1e-4)


def read_from(model, clean, metric):
    """What comes of each node's output: the metric's gradient, in float64."""
    inputs = model.embed(clean).detach().requires_grad_()
    logits, outputs = model.run(inputs, lambda _, outputs: sum(outputs.values()))
    nodes = [name for name in outputs if name != "input"]
    gradients = torch.autograd.grad(metric(logits), [outputs[name] for name in nodes])
    return dict(zip(nodes, gradients, strict=True))


@parametrize("gpt2", "pythia", "qwen3")
def test_scales_are_the_literal_least_squares_layer_by_layer(family):
    base, tuned, pairs = (
        load_model(tiny(family, 0)),
        load_model(tiny(family, 1)),
        random_pairs(3, n=3),
    )
    fit = ScaleFits(base, tuned, pairs, batch_size=2).fit()
    ours, between, theirs = (LiteralMix(model.hf) for model in (base, base, tuned))
    last = base.graph.n_layers - 1
    readers, scales = [ours, theirs], dict[str, float]()
    for _ in range(3):
        ours.scales = {}
        read = [
            [read_from(reader, clean, metric) for reader in readers]
            for clean, _, metric in ours.prompts(pairs)
        ]
        scales = {}
        with torch.no_grad():
            for node in base.graph.nodes:
                both = own = 0.0
                for (clean, _, _), gradients in zip(ours.prompts(pairs), read, strict=True):
                    ours.scales = scales
                    b, a = (twin.plain(clean)[1][node] for twin in (ours, theirs))
                    is_last = int(node[1:].split(".")[0]) == last
                    where = slice(-1, None) if is_last else slice(None)
                    for each in gradients:
                        ours_read, theirs_read = (
                            (each[node] * x)[where].sum(dim=1) for x in (b, a)
                        )
                        both += float((theirs_read * ours_read).sum())
                        own += float((ours_read * ours_read).sum())
                # Heads of one layer do not read each other, so that their order does not matter.
                scales = {**scales, node: both / own}
        between.scales = scales
        readers = [ours, theirs, between]
    assert {node: fit.of(node) for node in scales} == pytest.approx(scales, abs=2e-3)


def test_scales_that_must_not_be_negative_stop_at_zero():
    base, pairs = load_model(tiny("gpt2")), random_pairs(0)
    true = drawn(base.graph)
    assert bool((true.nodes < 0).any())
    fit = ScaleFits(base, rescaled(base, true), pairs).fit(non_negative=True)
    first = base.graph.n_heads
    wanted = true.nodes[:first].clamp(min=0)
    torch.testing.assert_close(fit.nodes[:first], wanted, atol=1e-4, rtol=0)
    assert bool((fit.nodes >= 0).all())


def test_scales_of_a_model_over_itself_are_one_and_leave_it_as_it_is():
    base, pairs = load_model(tiny("gpt2")), random_pairs(0)
    before = {name: weight.clone() for name, weight in base.hf.named_parameters()}
    fit = ScaleFits(base, base, pairs).fit()
    assert bool((fit.nodes == 1).all())
    same = rescaled(base, fit)
    assert np.array_equal(behaviour(same, pairs).logit_diff, behaviour(base, pairs).logit_diff)
    rescaled(base, drawn(base.graph))
    assert all(torch.equal(before[name], weight) for name, weight in base.hf.named_parameters())


def test_fits_that_share_what_is_read_are_those_alone(monkeypatch):
    base, tuned, pairs = load_model(tiny("gpt2", 0)), load_model(tiny("gpt2", 1)), random_pairs(5)
    alone = [ScaleFits(base, tuned, pairs).fit(non_negative=bound) for bound in (False, True)]
    assert float(alone[0].nodes.min()) < 0 <= float(alone[1].nodes.min())
    reading, readers = gains_module._output_gradients, []

    def seen(reader, *given):
        readers.append(reader)
        return reading(reader, *given)

    monkeypatch.setattr(gains_module, "_output_gradients", seen)
    # A device's free room shrinks by what is kept; that must not make other batches.
    room = iter([lambda width, before: 99, lambda width, before: 1])
    monkeypatch.setattr(gains_module, "max_batch_rows", lambda *given: next(room))
    fits = ScaleFits(base, tuned, pairs)
    for bound, single in zip((False, True), alone, strict=True):
        assert torch.equal(fits.fit(non_negative=bound).nodes, single.nodes)
    # One batch: both models once, and the rescaled base in the second and third round of each fit.
    for model in (base, tuned):
        assert sum(reader is model.decoder for reader in readers) == 1
    assert len(readers) == 2 + 2 * 2


def test_a_fit_that_turns_nothing_round_is_the_bounded_one_too():
    base, pairs = load_model(tiny("gpt2")), random_pairs(2)
    tuned = rescaled(base, drawn(base.graph, low=0.5))
    fits = ScaleFits(base, tuned, pairs)
    free = fits.fit()
    assert fits.fit(non_negative=True) is free
    assert torch.equal(ScaleFits(base, tuned, pairs).fit(non_negative=True).nodes, free.nodes)

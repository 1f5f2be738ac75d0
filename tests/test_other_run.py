import numpy as np
import pytest
import torch

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.files.load import load_model
from circuitlapse.patching.node_effects import node_effects
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.two_models.other_run import from_corrupt, from_model
from circuitlapse.two_models.patched_runs import Patch
from families import every_family
from twins_engine import random_pairs, tiny
from twins_other_run import Hooked


def models(family="gpt2", **options):
    return load_model(tiny(family, 0, **options)), load_model(tiny(family, 1, **options))


def placed(pairs: PromptPairs) -> PromptPairs:
    """The same pairs with two named positions."""
    tokens = pairs.clean
    index = torch.arange(tokens.shape[1])
    mask = (index < pairs.lengths[:, None]).long()
    positions = {"MID": pairs.lengths // 2, "END": pairs.lengths - 1}
    return PromptPairs.from_tensors(
        tokens, pairs.corrupt, pairs.answers, pairs.distractors, mask, positions
    )


def orthonormal(model, names, ranks=(1, 2)):
    generator = torch.Generator().manual_seed(4)
    return {
        name: torch.linalg.qr(
            torch.randn(model.decoder.d_model, ranks[i % len(ranks)], generator=generator)
        )[0]
        for i, name in enumerate(names)
    }


def asked(model):
    """Patches of every kind: whole, in part, at a position, and of several layers."""
    some = ("a0.h1", "a1.h0", "a1.h1", "a2.h0")
    return [
        Patch(("a0.h0",)),
        Patch(("a0.h1", "a1.h0")),
        Patch(some, directions=orthonormal(model, some)),
        Patch(some, directions=orthonormal(model, some[1:3])),
        Patch(("a1.h1",), directions=orthonormal(model, ("a1.h1",))),
        Patch(("a1.h0", "m1")),
        Patch(("m0", "a2.h1"), "MID"),
        Patch(("a0.h1", "a1.h1"), "MID", orthonormal(model, ("a0.h1",))),
        Patch(("a2.h0", "a2.h1")),
        Patch(("a1.h0", "m2"), "END"),
        Patch(()),
        Patch(model.graph.heads),
    ]


def check(found, hooked, pairs, patches, others):
    for row in range(len(pairs)):
        tokens = pairs.clean[row, : int(pairs.lengths[row])]
        wrong = pairs.distractors[row]
        _, outputs = others(row)
        for index, patch in enumerate(patches):
            at = (
                None
                if patch.position == "everywhere"
                else int(pairs.positions[patch.position][row])
            )
            logits = hooked.patched(tokens, outputs, patch.nodes, at, patch.directions)
            wanted = float(logits[pairs.answers[row]] - logits[wrong].mean())
            assert found.patched[index, row] == pytest.approx(wanted, abs=2e-4), (index, row)


@every_family
def test_outputs_of_the_corrupted_prompt_are_those_that_hooks_put_in(family):
    model = load_model(tiny(family, num_hidden_layers=3))
    pairs, hooked = placed(random_pairs(5)), Hooked(model.hf)
    found = from_corrupt(model, pairs, patches := asked(model))

    def others(row):
        return hooked.run(pairs.corrupt[row, : int(pairs.lengths[row])])

    check(found, hooked, pairs, patches, others)
    for row in range(len(pairs)):
        logits, _ = others(row)
        wanted = float(logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean())
        assert found.other[row] == pytest.approx(wanted, abs=2e-4)


@every_family
def test_outputs_of_another_model_pass_through_its_own_weights(family):
    tuned, base = models(family, num_hidden_layers=3)
    pairs, hooked, other = placed(random_pairs(6)), Hooked(tuned.hf), Hooked(base.hf)
    found = from_model(tuned, base, pairs, patches := asked(tuned))

    def others(row):
        return other.run(pairs.clean[row, : int(pairs.lengths[row])])

    check(found, hooked, pairs, patches, others)
    for row in range(len(pairs)):
        logits, _ = others(row)
        wanted = float(logits[pairs.answers[row]] - logits[pairs.distractors[row]].mean())
        assert found.other[row] == pytest.approx(wanted, abs=2e-4)


def test_a_head_alone_has_the_effect_that_node_effects_measures():
    model, _ = models("llama")
    pairs = random_pairs(2)
    patches = [Patch((node,)) for node in model.graph.nodes]
    effects = node_effects(model, pairs).numpy()
    np.testing.assert_allclose(from_corrupt(model, pairs, patches).undone.T, effects, atol=1e-5)


def test_nothing_taken_is_the_run_itself_and_so_is_ones_own_output():
    tuned, base = models()
    pairs = random_pairs(1)
    for found in (
        from_corrupt(tuned, pairs, [Patch(())]),
        from_model(tuned, base, pairs, [Patch(())]),
    ):
        assert np.array_equal(found.patched[0], found.own)
    every = Patch(tuned.graph.nodes)
    itself = from_model(tuned, tuned, pairs, [every])
    assert np.array_equal(itself.patched[0], itself.own)
    assert np.array_equal(itself.other, itself.own)


def test_all_directions_are_the_whole_output():
    model, _ = models()
    pairs, names = random_pairs(3), model.graph.heads
    width = model.decoder.d_model
    everything = {name: torch.eye(width) for name in names}
    found = from_corrupt(model, pairs, [Patch(names), Patch(names, directions=everything)])
    np.testing.assert_allclose(found.patched[0], found.patched[1], atol=1e-5)


def test_batches_and_neighbours_do_not_matter():
    tuned, base = models("qwen3", num_hidden_layers=3)
    pairs = placed(random_pairs(4))
    patches = asked(tuned)
    whole = from_model(tuned, base, pairs, patches)
    single = from_model(tuned, base, pairs, patches, batch_size=1)
    np.testing.assert_allclose(whole.patched, single.patched, atol=1e-5)
    alone = [from_corrupt(tuned, pairs, [patch]).patched[0] for patch in patches]
    np.testing.assert_allclose(from_corrupt(tuned, pairs, patches).patched, alone, atol=1e-5)


def test_several_right_answers_answers_of_several_tokens_and_none_to_compare_with():
    model, _ = models()
    clean, corrupt = torch.randint(23, (2, 5, 6), generator=torch.Generator().manual_seed(1))
    answers, hooked = torch.arange(5), Hooked(model.hf)
    runs = [hooked.run(row)[0] for row in clean]
    plain = PromptPairs.from_tensors(clean, corrupt, answers)
    wanted = [float(logits[i] - logits.mean()) for i, logits in enumerate(runs)]
    np.testing.assert_allclose(from_corrupt(model, plain, []).own, wanted, atol=1e-4)
    wrong = torch.tensor([[10, 11]] * 5)
    also = PromptPairs.from_tensors(clean, corrupt, answers, wrong, also=answers[:, None] + 12)
    wanted = [
        float(logits[[i, i + 12]].logsumexp(0) - logits[[10, 11]].mean())
        for i, logits in enumerate(runs)
    ]
    np.testing.assert_allclose(from_corrupt(model, also, []).own, wanted, atol=1e-4)
    long = PromptPairs.from_tensors(
        clean, corrupt, torch.stack([answers, answers + 1], 1), torch.full((5, 1), 20)
    )

    def log_prob(row, words):
        total, tokens = 0.0, clean[row]
        for word in words:
            total += float(hooked.run(tokens)[0].log_softmax(0)[word])
            tokens = torch.cat([tokens, torch.tensor([word])])
        return total

    wanted = [log_prob(i, [i, i + 1]) - log_prob(i, [20]) for i in range(5)]
    found = from_corrupt(model, long, [Patch(("a0.h0",)), Patch(())])
    np.testing.assert_allclose(found.own, wanted, atol=1e-4)
    np.testing.assert_allclose(found.patched[1], wanted, atol=1e-4)
    assert abs(found.undone[0]).max() > 1e-3


def test_errors_name_the_node_and_the_parameter():
    model, _ = models()
    with pytest.raises(CircuitlapseError, match=r"no such head or MLP \(got 'm7'\)"):
        from_corrupt(model, random_pairs(0), [Patch(("m7",))])
    other = load_model(tiny("gpt2", vocab_size=29))
    with pytest.raises(CircuitlapseError, match=r"differ in the shape of transformer\.wte\.weight"):
        from_model(model, other, random_pairs(0), [])

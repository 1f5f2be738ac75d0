import numpy as np
import pytest
import torch

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.two_models.crosspatch import crosspatch
from circuitlapse.two_models.other_run import behaviours_from_model
from circuitlapse.two_models.patched_runs import EVERYWHERE, Patch
from twins_compare import LiteralMix
from twins_engine import tiny


def named_pairs(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 9, (n,), generator=generator)
    clean, corrupt = torch.randint(23, (2, n, 9), generator=generator)
    mask = (torch.arange(9) < lengths[:, None]).long()
    positions = {"IO": torch.full((n,), 2), "END": lengths - 1}
    answers = torch.randint(20, (n,), generator=generator)
    wrong = answers[:, None] + torch.tensor([1, 2])
    return PromptPairs.from_tensors(clean, corrupt, answers, wrong, mask, positions)


def crosspatched(into, source, pairs, patches):
    return behaviours_from_model(into, source, pairs, patches, own_weights=True)


def models(family="gpt2", **options):
    return load_model(tiny(family, 0, **options)), load_model(tiny(family, 1, **options))


@pytest.mark.parametrize("family", ["gpt2", "pythia", "qwen3"])
@pytest.mark.parametrize(
    "patch",
    [
        Patch(("a0.h1", "a1.h0"), "IO"),
        Patch(("a0.h0", "m0"), "IO+1"),
        Patch(("a0.h0", "a1.h1", "m0")),
        Patch(("a0.h1", "m1"), "END"),
        Patch(("a1.h0",), "IO"),
        Patch(("m1",), "END"),
        Patch(("a2.h1", "m2"), "IO"),
        Patch(("a1.h1", "m2")),
    ],
)
def test_patched_activations_are_the_sources_through_ones_own_output_weights(family, patch):
    into, source = models(family, num_hidden_layers=3)
    pairs = named_pairs()
    (found,) = crosspatched(into, source, pairs, [patch])
    ours, theirs = LiteralMix(into.hf), LiteralMix(source.hf)
    with torch.no_grad():
        for row, (clean, _, metric) in enumerate(ours.prompts(pairs)):
            name = patch.position.removesuffix("+1")
            where = slice(None)
            if patch.position != EVERYWHERE:
                where = int(pairs.positions[name][row]) + patch.position.endswith("+1")
            _, outputs = theirs.plain(clean)
            ours.mixed = {node: (where, theirs.z.get(node, outputs[node])) for node in patch.nodes}
            wanted = float(metric(ours.plain(clean)[0]))
            assert float(found.logit_diff[row]) == pytest.approx(wanted, abs=1e-4)


def test_no_patch_and_a_patch_from_oneself_change_nothing():
    into, source = models()
    pairs = named_pairs()
    plain = behaviour(into, pairs).logit_diff
    every = Patch(tuple(into.graph.nodes))
    assert np.array_equal(crosspatched(into, source, pairs, [Patch(())])[0].logit_diff, plain)
    assert np.array_equal(crosspatched(into, into, pairs, [every])[0].logit_diff, plain)


def test_rows_hold_every_group_position_and_way():
    base, tuned = models(num_attention_heads=4, hidden_size=16)
    pairs = named_pairs(30)
    seen = []
    groups = {"pair": ("a0.h1", "a1.h2"), "mlps": ("m0", "m1"), "none": ()}
    rows = crosspatch(
        base,
        tuned,
        pairs,
        groups,
        ("END", EVERYWHERE),
        seed=0,
        n_random=4,
        advance=lambda *at: seen.append(at),
    )
    assert seen[-1] == (12, 12)
    assert len(rows) == 12
    found = {(row.group, row.position, row.direction): row for row in rows}
    assert found["mlps", "END", "tuned_into_base"].random is None
    random = found["pair", "END", "base_into_tuned"].random
    assert random is not None
    assert random.n == 4
    assert found["none", "END", "tuned_into_base"].improvement.value == pytest.approx(0, abs=1e-6)
    for position in ("END", EVERYWHERE):
        (patched,) = crosspatched(tuned, base, pairs, [Patch(groups["pair"], position)])
        lost = behaviour(tuned, pairs).logit_diff - patched.logit_diff
        row = found["pair", position, "base_into_tuned"]
        assert row.improvement.value == pytest.approx(
            float(lost.astype(np.float64).mean()), abs=1e-5
        )
        assert row.accuracy == float(patched.candidate_correct.mean(dtype=np.float64))


def test_refusals_name_the_node_and_the_position():
    into, source = models()
    with pytest.raises(CircuitlapseError, match=r"no such head or MLP \(got 'm7'\)"):
        crosspatched(into, source, named_pairs(), [Patch(("m7",))])
    with pytest.raises(CircuitlapseError, match=r"no such position \(got 'S1'\)\. Use one of IO"):
        crosspatched(into, source, named_pairs(), [Patch(("a0.h0",), "S1")])

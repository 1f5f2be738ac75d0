import numpy as np
import pytest
import torch

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.files.load import load_model
from circuitlapse.two_models.mediation import behaviours_with_frozen_heads, mediation
from families import every_family
from twins_compare import LiteralMix
from twins_engine import random_pairs, tiny


def models(family="gpt2", **options):
    return load_model(tiny(family, 0, **options)), load_model(tiny(family, 1, **options))


def heads(model):
    return [node for node in model.graph.nodes if not node.startswith("m")]


@every_family
def test_held_heads_add_what_they_add_in_the_base(family):
    base, tuned = models(family)
    pairs, free = random_pairs(0), ("a0.h0", "a1.h1")
    (found,) = behaviours_with_frozen_heads(base, tuned, pairs, [free])
    ours, theirs = LiteralMix(tuned.hf), LiteralMix(base.hf)
    with torch.no_grad():
        for row, (clean, _, metric) in enumerate(ours.prompts(pairs)):
            _, before = theirs.plain(clean)
            ours.held = {name: before[name] for name in heads(base) if name not in free}
            wanted = float(metric(ours.plain(clean)[0]))
            assert float(found.logit_diff[row]) == pytest.approx(wanted, abs=1e-4)


def test_all_heads_free_is_the_tuned_model_bit_for_bit_in_any_batches():
    base, tuned = models()
    pairs = random_pairs(1)
    (found,) = behaviours_with_frozen_heads(base, tuned, pairs, [heads(base)])
    assert np.array_equal(found.logit_diff, behaviour(tuned, pairs).logit_diff)
    (single,) = behaviours_with_frozen_heads(base, tuned, pairs, [["a1.h0"]], batch_size=1)
    (whole,) = behaviours_with_frozen_heads(base, tuned, pairs, [["a1.h0"]])
    torch.testing.assert_close(single.logit_diff, whole.logit_diff)


def test_rows_run_from_what_needs_no_head_to_the_whole_improvement():
    base, tuned = models(num_attention_heads=4, hidden_size=16)
    pairs = random_pairs(2, n=40)
    groups = {"pair": ("a0.h1", "a1.h2")}
    rows = {row.group: row for row in mediation(base, tuned, pairs, groups, seed=0, n_random=5)}
    assert list(rows) == ["no heads", "pair", "all heads"]
    v = {
        name: behaviour(m, pairs).logit_diff.astype(np.float64)
        for name, m in [("0", base), ("1", tuned)]
    }
    improvement = float((v["1"] - v["0"]).mean())
    assert rows["all heads"].improvement.value == pytest.approx(improvement, abs=1e-6)
    assert rows["no heads"].random is rows["all heads"].random is None
    random = rows["pair"].random
    assert random is not None
    assert random.n == 5
    assert random.low <= random.mean <= random.high
    share = rows["all heads"].share
    assert share is None or (share.value, share.low, share.high) == (1, 1, 1)


def test_a_model_has_no_improvement_over_itself_and_no_shares_of_it():
    base, _ = models()
    rows = mediation(base, base, random_pairs(0), {"one": ("a0.h0",)}, seed=0, n_random=2)
    assert all(row.share is None for row in rows)
    np.testing.assert_allclose([row.improvement.value for row in rows], 0, atol=1e-6)


def test_refusals_name_the_head_and_the_parameter():
    base, tuned = models()
    with pytest.raises(CircuitlapseError, match=r"no such head \(got 'a9\.h0'\)\. Name heads"):
        behaviours_with_frozen_heads(base, tuned, random_pairs(0), [["a9.h0"]])
    other = load_model(tiny("gpt2", vocab_size=29))
    with pytest.raises(CircuitlapseError, match=r"differ in the shape of transformer\.wte\.weight"):
        behaviours_with_frozen_heads(base, other, random_pairs(0), [[]])


def test_the_groups_that_are_named_are_compared_with_random_groups():
    base, tuned = models(num_attention_heads=4, hidden_size=16)
    pairs, groups = random_pairs(2, n=20), {"pair": ("a0.h1", "a1.h2"), "one": ("a0.h0",)}
    found, everywhere = (
        {row.group: row.random for row in mediation(base, tuned, pairs, groups, seed=0, n_random=n)}
        for n in ({"pair": 5}, 5)
    )
    assert found["pair"] == everywhere["pair"] is not None
    assert found["one"] is None is not everywhere["one"]

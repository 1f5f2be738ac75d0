import numpy as np
import pytest

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.stats.random_baseline import matched_heads
from circuitlapse.two_models.grafts import Grafts, parameter_groups
from circuitlapse.two_models.head_grafts import head_grafts, random_grafts
from families import every_family
from twins_engine import random_pairs, tiny


def test_add_one_in_and_leave_one_out_of_whole_heads_are_the_groups_own_grafts():
    options = {"num_attention_heads": 4, "hidden_size": 16}
    base, tuned = (load_model(tiny("gpt2", seed, **options)) for seed in (0, 1))
    pairs, heads = random_pairs(0, n=20), ("a0.h1", "a1.h0")
    rows = head_grafts(base, tuned, pairs, {"old": heads}, seed=0, n_random=3, repeats=50)
    grafts = Grafts(base, tuned, parameter_groups(base.hf, heads, ()).pieces)
    v = [
        float(behaviour(grafts.write(groups), pairs).logit_diff.mean(dtype=np.float64))
        for groups in (
            (),
            ("old_heads",),
            ("recruited_heads", "other_heads", "mlps", "shared"),
            ("old_heads", "recruited_heads", "other_heads", "mlps", "shared"),
        )
    ]
    assert [row.quantity for row in rows] == ["add_one_in", "leave_one_out"]
    assert rows[0].improvement.value == pytest.approx(v[1] - v[0], abs=1e-6)
    assert rows[1].improvement.value == pytest.approx(v[3] - v[2], abs=1e-6)
    assert rows[0].random is not None
    assert rows[0].random.n == 3


def test_random_groups_are_grafted_in_the_place_of_each_group():
    options = {"num_attention_heads": 4, "hidden_size": 16}
    base, tuned = (load_model(tiny("gpt2", seed, **options)) for seed in (0, 1))
    pairs, every = random_pairs(0, n=20), [n for n in base.graph.nodes if n.startswith("a")]
    groups, seen = {"two": ("a0.h1", "a1.h0"), "all": every}, []
    found = random_grafts(
        base,
        tuned,
        pairs,
        {"add_one_in": groups, "leave_one_out": groups},
        seed=3,
        n_random=4,
        advance=lambda *at: seen.append(at),
    )
    assert seen == [(i, 8) for i in range(1, 9)]
    assert found["add_one_in", "all"] == found["leave_one_out", "all"] == []
    first, last = found["add_one_in", "two"], found["leave_one_out", "two"]
    drawn = matched_heads(base.graph, groups["two"], 4, 3)
    assert len(first) == len(last) == len(drawn) == 4
    before, after = (behaviour(m, pairs).logit_diff.mean(dtype=np.float64) for m in (base, tuned))
    for index, heads in enumerate(drawn):
        parts = parameter_groups(base.hf, heads, ()).pieces
        grafts = Grafts(base, tuned, parts)
        alone = behaviour(grafts.write(("old_heads",)), pairs).logit_diff.mean(dtype=np.float64)
        without = behaviour(grafts.write(set(parts) - {"old_heads"}), pairs).logit_diff
        assert first[index] == pytest.approx(float(alone - before), abs=1e-6)
        assert last[index] == pytest.approx(float(after - without.mean(dtype=np.float64)), abs=1e-6)


def test_queries_and_keys_move_the_pattern_and_values_and_outputs_do_not():
    """QK and OV of one head, grafted apart, change nothing that is the other's."""
    base, tuned = (load_model(tiny("gpt2", seed)) for seed in (0, 1))
    pairs = random_pairs(0, n=20)
    rows = head_grafts(
        base, tuned, pairs, {"one": ("a1.h0",)}, seed=0, parts=("whole", "qk", "ov"), repeats=20
    )
    named = {(row.part, row.quantity): row.improvement.value for row in rows}
    assert len({round(value, 9) for value in named.values()}) == 6
    # Written by hand: the columns of the fused matrix, and the rows of the output matrix.
    width, d_head = base.decoder.d_model, base.decoder.attention[0].W_O.shape[1]
    theirs = dict(tuned.hf.named_parameters())
    by_hand = load_model(tiny("gpt2", 0))
    ours = dict(by_hand.hf.named_parameters())
    for start in (0, width):
        for name in ("weight", "bias"):
            full = f"transformer.h.1.attn.c_attn.{name}"
            ours[full].data[..., start : start + d_head] = theirs[full][..., start : start + d_head]
    improvement = behaviour(by_hand, pairs).logit_diff - behaviour(base, pairs).logit_diff
    assert named["qk", "add_one_in"] == pytest.approx(
        float(improvement.mean(dtype=np.float64)), abs=1e-6
    )


@every_family
def test_every_piece_of_a_head_has_its_slot_and_every_mlp_its_output(family):
    hf = tiny(family)
    slots: dict[str, set[str]] = {}
    for piece in component_pieces(hf):
        slots.setdefault(piece.component, set()).add(piece.slot)
    shares_keys = getattr(hf.config, "num_key_value_heads", 2) != hf.config.num_attention_heads
    for component, found in slots.items():
        if component == "shared":
            assert found == ({"", "k", "v"} if shares_keys else {""})
        elif component.startswith("m"):
            assert found == {"", "o"}
        else:
            assert found == ({"q", "o"} if shares_keys else set("qkvo"))


def test_unknown_heads_are_refused():
    base = load_model(tiny("gpt2"))
    with pytest.raises(CircuitlapseError, match=r"no such head \(got 'a0\.h7'\)"):
        head_grafts(base, base, random_pairs(0), {"x": ("a0.h7",)}, seed=0)


def test_the_partition_gives_shared_keys_to_the_group_of_all_their_heads():
    """Heads 0 and 1 share theirs, and 2 and 3; of the latter only one is recruited."""
    hf = tiny("llama", 0, hidden_size=16)
    groups = parameter_groups(hf, ("a0.h0", "a0.h1"), ("a0.h2",))
    where = {
        (piece.sharers, piece.slot): group
        for group, pieces in groups.pieces.items()
        for piece in pieces
        if piece.parameter.startswith("model.layers.0.") and piece.sharers
    }
    whole, parted = ("a0.h0", "a0.h1"), ("a0.h2", "a0.h3")
    assert where == {
        (whole, "k"): "old_heads",
        (whole, "v"): "old_heads",
        (parted, "k"): "shared",
        (parted, "v"): "shared",
    }


def test_shared_keys_and_values_go_with_a_group_that_holds_all_their_heads():
    base, tuned = (load_model(tiny("llama", seed, hidden_size=16)) for seed in (0, 1))
    pairs = random_pairs(0, n=20)
    groups = {"whole": ("a0.h0", "a0.h1"), "part": ("a0.h1", "a0.h2")}
    rows = head_grafts(base, tuned, pairs, groups, seed=0, n_random=0, repeats=20)
    named = {(row.group, row.quantity): row.improvement.value for row in rows}
    for group, slots in (("whole", "qkvo"), ("part", "qo")):
        by_hand = load_model(tiny("llama", 0, hidden_size=16))
        ours, theirs = (dict(m.hf.named_parameters()) for m in (by_hand, tuned))
        for piece in component_pieces(base.hf):
            own = {piece.component, *piece.sharers} - {"shared"}
            if own and own <= set(groups[group]) and piece.slot in slots:
                ours[piece.parameter].data[piece.index] = theirs[piece.parameter][piece.index]
        improvement = behaviour(by_hand, pairs).logit_diff - behaviour(base, pairs).logit_diff
        assert named[group, "add_one_in"] == pytest.approx(
            float(improvement.mean(dtype=np.float64)), abs=1e-6
        )

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from circuitlapse.analyses.grafts import GRAFTS
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records.documents import GROUPS
from circuitlapse.two_models import grafts
from circuitlapse.two_models.grafts import Grafts, graft_values, parameter_groups
from circuitlapse.verdict.causes import QUANTITIES, SUBSETS, gain_shares
from families import every_family
from twins_engine import Literal, tiny

OLD, RECRUITED = ("a0.h1", "a1.h3"), ("a1.h0",)
SIZES = dict.fromkeys(GROUPS, 10)


def gpt2(seed, **options):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=23,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():  # fresh norms and biases are all ones and zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def models():
    return load_model(gpt2(0)), load_model(gpt2(1))


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(23, (2, 12, 7), generator=generator)
    return PromptPairs.from_tensors(
        clean, corrupt, torch.full((12,), 3), torch.tensor([[4, 5]] * 12)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_every_number_of_every_parameter_is_in_exactly_one_group(tied):
    hf = gpt2(0, tie_word_embeddings=tied)
    groups = parameter_groups(hf, OLD, RECRUITED)
    counts = {name: torch.zeros_like(p) for name, p in hf.named_parameters()}
    for members in groups.pieces.values():
        for piece in members:
            counts[piece.parameter][piece.index] += 1
    assert all(bool((count == 1).all()) for count in counts.values())
    assert sum(groups.n_parameters.values()) == sum(p.numel() for p in hf.parameters())
    assert ("lm_head.weight" in counts) is not tied


def test_group_sizes_are_those_counted_by_hand():
    sizes = parameter_groups(gpt2(0), OLD, RECRUITED).n_parameters
    head = 16 * 4 * 3 + 4 * 3 + 4 * 16  # q, k, v weights and biases, rows of the output matrix
    mlp = 16 * 64 + 64 + 64 * 16 + 16
    norms_and_bias = 2 * (2 * 16 + 2 * 16 + 16) + 2 * 16
    assert sizes == {
        "old_heads": 2 * head,
        "recruited_heads": head,
        "other_heads": 5 * head,
        "mlps": 2 * mlp,
        "shared": norms_and_bias + 23 * 16 + 16 * 16,
    }


def test_a_heads_pieces_are_all_that_its_output_depends_on():
    """Changing a head's pieces changes that head's output and no other head's."""
    base = gpt2(0)
    changed = copy.deepcopy(base)
    own = [piece for piece in component_pieces(base) if piece.component == "a1.h2"]
    assert len(own) == 7
    for piece in own:
        dict(changed.named_parameters())[piece.parameter].data[piece.index] += 1.0
    tokens = torch.arange(10)[None]

    def head_outputs(hf):
        seen = []
        attention = hf.transformer.h[1].attn
        hook = attention.c_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        hf(tokens)
        hook.remove()
        z = seen[0].view(1, 10, 4, 4)
        return torch.einsum("bphd,hdm->bphm", z, attention.c_proj.weight.view(4, 4, 16))

    with torch.no_grad():
        difference = (head_outputs(base) - head_outputs(changed)).abs().amax(dim=(0, 1, 3))
    assert (difference > 0).tolist() == [False, False, True, False]


def test_groups_refuse_wrong_heads_and_unknown_models():
    hf = gpt2(0)
    with pytest.raises(CircuitlapseError, match=r"no such head \(got 'a2\.h0'\)\. Name heads"):
        parameter_groups(hf, ["a2.h0"], [])
    with pytest.raises(CircuitlapseError, match=r"both an old and a recruited one \(got 'a0\.h0'"):
        parameter_groups(hf, ["a0.h0"], ["a0.h0"])
    hf.transformer.h[0].extra = torch.nn.Linear(2, 2)
    with pytest.raises(CircuitlapseError, match=r"no known component.*h\.0\.extra\.weight"):
        parameter_groups(hf, [], [])
    other = OPTForCausalLM(
        OPTConfig(
            vocab_size=9,
            hidden_size=8,
            ffn_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=8,
        )
    )
    with pytest.raises(CircuitlapseError, match=r"cannot be divided.*'opt'.*gpt2"):
        parameter_groups(other, [], [])


def weights(model):
    return {name: parameter.clone() for name, parameter in model.hf.named_parameters()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_no_op_and_full_grafts_are_the_models_bit_for_bit(models):
    base, tuned = models
    before, target = weights(base), weights(tuned)
    grafts = Grafts(base, tuned, parameter_groups(base.hf, OLD, RECRUITED).pieces)
    assert same(weights(grafts.write(())), before)
    assert same(weights(grafts.write(GROUPS)), target)
    assert same(weights(grafts.write(())), before)
    assert same(weights(base), before)
    assert same(weights(tuned), target)


def test_a_graft_takes_exactly_its_groups_in_any_order_of_writing(models):
    base, tuned = models
    groups = parameter_groups(base.hf, OLD, RECRUITED)
    grafts = Grafts(base, tuned, groups.pieces)
    order = np.random.default_rng(0).permutation(len(SUBSETS))
    for number in order:
        literal = weights(base)
        for group in SUBSETS[number]:
            for piece in groups.pieces[group]:
                source = dict(tuned.hf.named_parameters())[piece.parameter]
                literal[piece.parameter][piece.index] = source[piece.index]
        assert same(weights(grafts.write(SUBSETS[number])), literal)


@pytest.fixture
def answered(monkeypatch):
    """The grafted models that were run."""
    seen = []

    def counted(model, pairs):
        seen.append(model)
        return behaviour(model, pairs)

    monkeypatch.setattr(grafts, "behaviour", counted)
    return seen


def test_values_are_those_of_models_loaded_afresh(models, pairs, answered):
    base, tuned = models
    groups = parameter_groups(base.hf, OLD, RECRUITED)
    values = graft_values(base, tuned, groups, pairs)
    assert values.shape == (32, 12)
    assert len(answered) == 32
    for number in (0, 5, 31):
        scratch = Grafts(base, tuned, groups.pieces).write(SUBSETS[number])
        fresh = load_model(copy.deepcopy(scratch.hf))
        np.testing.assert_array_equal(values[number], behaviour(fresh, pairs).logit_diff)
    np.testing.assert_array_equal(values[0], behaviour(base, pairs).logit_diff)
    np.testing.assert_array_equal(values[31], behaviour(tuned, pairs).logit_diff)


def test_a_group_without_heads_brings_exactly_nothing(models, pairs, answered):
    base, tuned = models
    groups = parameter_groups(base.hf, OLD, ())
    values = graft_values(base, tuned, groups, pairs)
    assert len(answered) == 16
    rows = [r for r in gain_shares(values, groups.n_parameters, seed=0).rows if not r.n_parameters]
    assert [row.group for row in rows] == ["recruited_heads"] * 3
    assert all(
        (row.improvement.value, row.improvement.low, row.improvement.high) == (0, 0, 0)
        for row in rows
    )


def test_grafts_refuse_models_of_other_shapes(models):
    base, _ = models
    grown = load_model(gpt2(0, tie_word_embeddings=False))
    with pytest.raises(CircuitlapseError, match=r"shape of lm_head\.weight \(got 'nothing and"):
        Grafts(base, grown, parameter_groups(base.hf, [], []).pieces)


def test_subsets_are_all_of_them():
    assert len(set(SUBSETS)) == 2 ** len(GROUPS)
    assert SUBSETS[0] == frozenset()
    assert SUBSETS[-1] == set(GROUPS)


def additive(effects, prompts=50, noise=1.0, seed=0):
    """Grafted models whose value is the sum of their groups' effects, with noise of the prompts."""
    rng = np.random.default_rng(seed)
    own = noise * rng.normal(size=prompts)
    per_prompt = [effect + noise * rng.normal(size=prompts) for effect in effects]
    return np.stack(
        [own + sum((per_prompt[GROUPS.index(g)] for g in s), np.zeros(prompts)) for s in SUBSETS]
    )


def test_independent_groups_get_their_own_effect_under_every_quantity():
    values = additive([3.0, 1.0, 0.5, -0.5, 0.0], noise=1e-6)
    result = gain_shares(values, SIZES, seed=0)
    assert result.improvement.value == pytest.approx(4.0, abs=1e-4)
    for quantity in QUANTITIES:
        rows = result.of(quantity)
        improvements = [rows[group].improvement.value for group in GROUPS]
        assert improvements == pytest.approx([3.0, 1.0, 0.5, -0.5, 0.0], abs=1e-4)
        share = rows["old_heads"].share
        assert share is not None
        assert share.value == pytest.approx(0.75, abs=1e-4)


def test_groups_that_only_work_together_share_what_they_bring():
    values = np.stack(
        [np.full(8, 2.0 if {"old_heads", "mlps"} <= subset else 0.0) for subset in SUBSETS]
    )
    result = gain_shares(values, SIZES, seed=0)
    assert {g: r.improvement.value for g, r in result.of("add_one_in").items()} == dict.fromkeys(
        GROUPS, 0.0
    )
    assert result.of("leave_one_out")["old_heads"].improvement.value == 2
    share = result.of("leave_one_out")["mlps"].share
    assert share is not None
    assert share.value == 1
    assert result.of("shapley")["old_heads"].improvement.value == pytest.approx(1)
    assert result.of("shapley")["shared"].improvement.value == pytest.approx(0)


@given(arrays(np.float64, (32, 4), elements=st.floats(-50, 50)))
def test_shapley_values_equal_the_mean_over_all_orders_and_sum_to_the_improvement(values):
    result = gain_shares(values, SIZES, seed=0, repeats=3)
    literal = dict.fromkeys(GROUPS, 0.0)
    means = dict(zip(SUBSETS, values.mean(axis=1), strict=True))
    orders = list(itertools.permutations(GROUPS))
    for order in orders:
        for k, group in enumerate(order):
            step = means[frozenset(order[: k + 1])] - means[frozenset(order[:k])]
            literal[group] += step / len(orders)
    found = {group: row.improvement.value for group, row in result.of("shapley").items()}
    assert found == pytest.approx(literal, abs=1e-9)
    assert sum(found.values()) == pytest.approx(result.improvement.value, abs=1e-9)


@every_family
def test_the_weights_of_a_head_change_that_head_alone(family):
    hf = tiny(family)
    pieces = component_pieces(hf)
    counts = {name: torch.zeros_like(p) for name, p in hf.named_parameters()}
    for piece in pieces:
        counts[piece.parameter][piece.index] += 1
    assert all(bool((count == 1).all()) for count in counts.values())

    tokens = torch.tensor([3, 1, 4, 1, 5])
    twin = Literal(hf)
    with torch.no_grad():
        _, before = twin.plain(tokens)
        for node in twin.graph.nodes:
            changed = copy.deepcopy(hf)
            weights = dict(changed.named_parameters())
            for piece in pieces:
                if piece.component == node:
                    weights[piece.parameter][piece.index] += 1
            _, after = Literal(changed).plain(tokens)
            layer = node[1:].split(".")[0]
            peers = [n for n in before if n[1:].split(".")[0] == layer and n[0] == "a"]
            moved = {n for n in {*peers, node} if not torch.allclose(before[n], after[n])}
            assert moved == {node}


def test_intervals_are_the_literal_joint_bootstrap():
    values = additive([2.0, 0.5, 0.3, 0.2, 0.1], prompts=30)
    result = gain_shares(values, SIZES, seed=7, repeats=200)
    rng = np.random.default_rng(7)
    ratios, totals = [], []
    first = SUBSETS.index(frozenset({"old_heads"}))
    for rows in rng.integers(0, 30, size=(200, 30)):
        means = values[:, rows].mean(axis=1)
        totals.append(means[-1] - means[0])
        ratios.append((means[first] - means[0]) / totals[-1])
    share = result.of("add_one_in")["old_heads"].share
    assert share is not None
    assert (share.low, share.high) == pytest.approx(tuple(np.percentile(ratios, [2.5, 97.5])))
    assert (result.improvement.low, result.improvement.high) == pytest.approx(
        tuple(np.percentile(totals, [2.5, 97.5]))
    )


@pytest.mark.parametrize("effect", [0.0, -3.0])
def test_shares_are_not_reported_where_there_is_no_improvement(effect):
    result = gain_shares(additive([effect, 0, 0, 0, 0]), SIZES, seed=0)
    assert result.improvement.low <= 0
    assert all(row.share is None for row in result.rows)
    assert result.rows[0].improvement.low < result.rows[0].improvement.high


def test_share_rows_have_the_tables_columns():
    result = gain_shares(additive([2.0, 0, 0, 0, 0], noise=0.1), SIZES, seed=0)
    run = {"base_seed", "recipe", "finetune_seed", "step", "origin", "part", "heads"}
    names = {column.name for column in GRAFTS.columns}
    assert set(vars(result.rows[0])) | run | {"random"} == names
    assert len(result.rows) == len(GROUPS) * len(QUANTITIES)
    row = result.of("shapley")["old_heads"]
    assert row.share is not None
    assert row.share.low <= row.share.value <= row.share.high


def test_shares_refuse_missing_grafted_models():
    with pytest.raises(CircuitlapseError, match="all 32 grafted models on at least two prompts"):
        gain_shares(np.zeros((31, 5)), SIZES, seed=0)
    with pytest.raises(CircuitlapseError, match="got .32 grafted models on 1"):
        gain_shares(np.zeros((32, 1)), SIZES, seed=0)


def test_a_rise_below_the_rounding_of_logits_is_no_improvement():
    values = np.ones((32, 6))
    values[-1] += 1e-9
    row = gain_shares(values, SIZES, seed=0).of("shapley")["mlps"]
    assert row.share is None

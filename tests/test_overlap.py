import itertools
import time
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from circuitlapse.analyses.overlap import OVERLAP, overlap_row
from circuitlapse.errors import CircuitlapseError
from circuitlapse.graph import head_of
from circuitlapse.heads.overlap import (
    EdgeImportance,
    NodeImportance,
    edge_overlaps,
    node_overlaps,
)
from circuitlapse.stats.permutations import shuffle_heads
from circuitlapse.stats.similarity import SIMILARITIES

N_LAYERS, N_HEADS = 3, 4


def layout(n_layers=N_LAYERS, n_heads=N_HEADS):
    """Names and edge mask of a sequential decoder, written out literally."""
    writers, readers, where = ["input"], [], {}
    time_of = {"input": -1}
    for layer in range(n_layers):
        for head in range(n_heads):
            for slot in "qkv":
                readers.append(f"a{layer}.h{head}<{slot}>")
                where[readers[-1]] = 2 * layer
            writers.append(f"a{layer}.h{head}")
            time_of[writers[-1]] = 2 * layer
        readers.append(f"m{layer}")
        where[readers[-1]] = 2 * layer + 1
        writers.append(f"m{layer}")
        time_of[writers[-1]] = 2 * layer + 1
    readers.append("logits")
    where["logits"] = 2 * n_layers
    mask = np.array([[time_of[w] < where[r] for r in readers] for w in writers])
    return writers, readers, mask


def nodes_of(n_layers=N_LAYERS, n_heads=N_HEADS):
    return layout(n_layers, n_heads)[0][1:]


def literal_jaccard(a, b):
    a, b = [abs(x) for x in a], [abs(x) for x in b]
    a, b = [x / sum(a) for x in a], [x / sum(b) for x in b]
    return sum(map(min, a, b)) / sum(map(max, a, b))


LITERAL = {
    "pearson": lambda a, b: stats.pearsonr(a, b)[0],
    "spearman": lambda a, b: stats.spearmanr(a, b)[0],
    "weighted_jaccard": literal_jaccard,
}

vectors = arrays(
    np.float64, 9, elements=st.integers(-40, 40).map(lambda x: x / 8), unique=False
).filter(lambda x: x.max() > x.min())


@given(vectors, vectors)
def test_measures_equal_their_literal_twins(a, b):
    for name, literal in LITERAL.items():
        assert SIMILARITIES[name](a, b) == pytest.approx(literal(a, b), abs=1e-12)


@given(vectors, vectors, st.permutations(range(9)))
def test_preparation_commutes_with_shuffling(a, b, order):
    for similarity in SIMILARITIES.values():
        shuffled = similarity.combine(similarity.prepare(a), similarity.prepare(b)[order])
        assert shuffled == pytest.approx(similarity(a, b[order]), abs=1e-12)


@given(vectors, vectors, st.floats(0.1, 9))
def test_scale_and_order_do_not_matter(a, b, scale):
    for similarity in SIMILARITIES.values():
        assert similarity(a, b) == pytest.approx(similarity(b, scale * a), abs=1e-9)
        assert similarity(a, scale * a) == pytest.approx(1)


def test_sign_counts_for_correlations_but_not_for_the_jaccard():
    a = np.array([3.0, -1.0, 0.5, 0.0])
    assert SIMILARITIES["pearson"](a, -a) == pytest.approx(-1)
    assert SIMILARITIES["spearman"](a, -a) == pytest.approx(-1)
    assert SIMILARITIES["weighted_jaccard"](a, -a) == pytest.approx(1)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3])
def test_constant_vectors_have_no_correlation(constant):
    a, flat = np.arange(7.0), np.full(7, constant)
    assert np.isnan(SIMILARITIES["pearson"](a, flat))
    assert np.isnan(SIMILARITIES["spearman"](flat, a))
    assert np.isnan(SIMILARITIES["weighted_jaccard"](a, flat)) == (constant == 0)


def test_heads_are_shuffled_within_their_layers_evenly_and_nothing_else_moves():
    nodes = nodes_of()
    drawn = shuffle_heads(nodes, 3000, 0)
    for i, name in enumerate(nodes):
        place, sources = head_of(name), {nodes[k] for k in drawn[:, i]}
        same_layer = [f"a{place.layer}.h{h}" for h in range(N_HEADS)] if place else [name]
        assert sources == set(same_layer)
        if place:
            assert np.bincount(drawn[:, i]).max() < 3000 / N_HEADS * 1.2
    np.testing.assert_array_equal(np.sort(drawn), np.tile(np.arange(len(nodes)), (3000, 1)))
    with pytest.raises(CircuitlapseError, match="every layer has all of them"):
        shuffle_heads(["a0.h0", "a1.h0", "a1.h1"], 3, 0)


def conditions(seed=0, prompts=40, nodes=15, noise=0.3):
    rng = np.random.default_rng(seed)
    shared = rng.exponential(size=nodes)
    return [
        NodeImportance(
            model, task, shared + 0.3 * rng.normal(size=nodes) + noise * rng.normal(size=(n, nodes))
        )
        for model, task, n in [
            ("base", "old", prompts),
            ("base", "new", prompts + 5),
            ("tuned", "old", prompts),
            ("tuned", "new", prompts + 5),
        ]
    ]


def test_node_rows_have_the_tables_columns_for_every_pair_and_measure():
    result = node_overlaps(conditions(), nodes_of(), seed=0, permutations=50, repeats=50)
    assert len(result) == 6 * 3
    assert [row.left for row in result[:3]] == ["base:old"] * 3
    row = overlap_row("", result[0])
    own = {column.name for column in OVERLAP.columns}
    assert own - set(row) == {"base_seed", "recipe", "finetune_seed", "step", "counterfactual"}
    assert OVERLAP.flat(row).keys() <= OVERLAP.schema.keys()
    for row in result:
        figures = {name: value for name, value in vars(row).items() if isinstance(value, float)}
        assert row.not_reported == ""
        assert row.interval is not None
        assert row.interval.low < row.interval.value < row.interval.high
        assert figures["null_low"] <= figures["null_mean"] <= figures["null_high"]
        assert 1 / 51 <= figures["p_value"] <= 1


def test_only_the_pairs_that_are_asked_for_are_compared_and_to_the_same_values():
    compare = partial(node_overlaps, seed=0, permutations=50, repeats=50)
    every = compare(conditions(), nodes_of())
    some = compare(conditions(), nodes_of(), pairs=[(0, 3), (1, 2)])
    wanted = [("base:old", "tuned:new"), ("base:new", "tuned:old")]
    assert [(row.left, row.right) for row in some[:2]] == wanted
    assert some == [row for row in every if (row.left, row.right) in wanted]


def test_node_values_and_null_equal_a_literal_computation():
    pairs = conditions()[:2]
    names = nodes_of()
    rows = node_overlaps(pairs, names, seed=4, permutations=30, repeats=5)
    left, right = (c.effects.mean(axis=0) for c in pairs)
    sources = shuffle_heads(names, 30, [4, 0])
    for row in rows:
        literal = LITERAL[row.measure]
        null = [literal(left, right[source]) for source in sources]
        assert row.value == pytest.approx(literal(left, right))
        assert row.null_mean == pytest.approx(np.mean(null))
        assert row.null_low == pytest.approx(np.percentile(null, 2.5))
        assert row.null_high == pytest.approx(np.percentile(null, 97.5))
        reached = sum(x >= row.value for x in null)
        assert row.p_value == pytest.approx((reached + 1) / 31)


def test_same_prompts_are_resampled_together():
    only = conditions(noise=2.0)[0]
    nearly = only.effects + np.linspace(0, 0.5, only.effects.shape[1])
    together, apart = (
        node_overlaps(
            [only, NodeImportance("twin", task, nearly)], nodes_of(), seed=0, permutations=5
        )[0]
        for task in (only.task, "another")
    )

    def width(row):
        assert row.interval is not None
        return row.interval.high - row.interval.low

    assert together.value == apart.value
    assert width(together) < 0.5 * width(apart)


def test_identical_models_overlap_fully_and_without_doubt():
    only = conditions()[0]
    twin = NodeImportance("twin", only.task, only.effects)
    for row in node_overlaps([only, twin], nodes_of(), seed=0, permutations=5):
        assert row.interval is not None
        ends = (row.interval.low, row.interval.high)
        assert (row.value, *ends) == pytest.approx((1, 1, 1))


def test_everything_is_fixed_by_the_seed():
    kwargs = {"nodes": nodes_of(), "permutations": 20, "repeats": 20}
    first, again, other = (node_overlaps(conditions(), **kwargs, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_null_p_values_are_uniform_when_labels_mean_nothing():
    rng = np.random.default_rng(0)
    names, p_values = nodes_of(2, 8), []
    for seed in range(150):
        pair = [
            NodeImportance("m", task, np.tile(rng.exponential(size=len(names)), (4, 1)))
            for task in "ab"
        ]
        result = node_overlaps(pair, names, seed=seed, permutations=99, repeats=2)
        p_values.append(result[0].p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_interval_covers_the_overlap_of_the_expected_effects():
    rng = np.random.default_rng(1)
    names = nodes_of()
    truth = [rng.exponential(size=len(names)) for _ in range(2)]
    truth[1] = 0.7 * truth[0] + 0.3 * truth[1]
    expected = float(stats.pearsonr(*truth)[0])  # pyright: ignore
    covered = []
    for seed in range(200):
        pair = [
            NodeImportance("m", task, mean + rng.normal(size=(60, len(names))))
            for task, mean in zip("ab", truth, strict=True)
        ]
        row = node_overlaps(pair, names, seed=seed, permutations=1, repeats=200)[0]
        assert row.interval is not None
        covered.append(row.interval.low <= expected <= row.interval.high)
    assert 0.89 <= np.mean(covered) <= 0.99


def test_undefined_overlaps_are_rows_with_a_reason_and_no_value():
    first, second, *_ = conditions()
    flat = NodeImportance("base", "new", np.zeros_like(second.effects))
    rows = node_overlaps([first, flat], nodes_of(), seed=0, permutations=5, repeats=5)
    assert [row.measure for row in rows] == list(SIMILARITIES)
    assert rows[0].not_reported == "base:new has no pearson: all its importances are equal"
    for row in rows:
        assert row.not_reported
        figures = asdict(row).keys() - {"unit", "left", "right", "measure", "not_reported"}
        assert {getattr(row, name) for name in figures} == {None}


def test_node_overlaps_refuse_wrong_input():
    with pytest.raises(CircuitlapseError, match="15 columns for 3 nodes in base:old"):
        node_overlaps(conditions(), nodes_of()[:3], seed=0)
    with pytest.raises(CircuitlapseError, match=r"at least four prompts.*3 in base:old"):
        node_overlaps(conditions(prompts=3), nodes_of(), seed=0)


def edge_conditions(mask, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=mask.shape) ** 3
    result = []
    for model, task in itertools.product(("base", "tuned"), ("old", "new")):
        mean = shared + 0.5 * rng.normal(size=(2, *mask.shape)).mean(axis=0)
        result.append(EdgeImportance(model, task, mean))
    return result


def test_edge_rows_equal_a_literal_computation():
    writers, readers, mask = layout()
    pair = edge_conditions(mask)[:2]
    for row in edge_overlaps(pair, writers, readers, mask):
        literal = LITERAL[row.measure]
        left, right = (c.mean for c in pair)
        assert row.unit == "edges"
        assert row.value == pytest.approx(literal(left[mask], right[mask]))
        assert row.interval is None
        assert {row.null_mean, row.null_low, row.null_high, row.p_value} == {None}


def test_scores_outside_the_graph_change_nothing():
    writers, readers, mask = layout()
    pair = edge_conditions(mask)[:2]
    spoiled = [EdgeImportance(c.model, c.task, np.where(mask, c.mean, 99.0)) for c in pair]
    first, second = (edge_overlaps(p, writers, readers, mask) for p in (pair, spoiled))
    assert first == second


def test_edge_overlaps_refuse_wrong_input():
    writers, readers, mask = layout()
    pair = edge_conditions(mask)
    with pytest.raises(CircuitlapseError, match="one row per writer"):
        edge_overlaps(pair, writers[1:], readers, mask)


def test_the_demos_table_takes_seconds_at_most():
    writers, readers, mask = layout(4, 8)
    begin = time.process_time()
    for family in range(2):
        pairs = conditions(family, prompts=256, nodes=36)
        node_overlaps(pairs, nodes_of(4, 8), seed=0)
        edge_overlaps(edge_conditions(mask), writers, readers, mask)
    assert time.process_time() - begin < 5

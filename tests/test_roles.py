"""Head profiles and moves on a GPT-2 whose heads' roles are set by hand."""

import copy

import numpy as np
import pytest

from circuitlapse.analyses.roles import strongest_reads
from circuitlapse.errors import CircuitlapseError
from circuitlapse.heads.head_changes import category_of
from circuitlapse.heads.head_profiles import HeadProfiles, head_profiles
from circuitlapse.heads.role_changes import compare_roles
from circuitlapse.models.engine.circuit import Graph
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.measure.readings import read
from handmade import handmade, handmade_pairs


def exchanged(hf, one, other):
    """The model with all weights of two heads exchanged."""
    changed = copy.deepcopy(hf)
    ours, theirs = dict(changed.named_parameters()), dict(hf.named_parameters())
    parts = {
        head: [p for p in component_pieces(hf) if p.component == head] for head in (one, other)
    }
    for mine, its in zip(parts[one], parts[other], strict=True):
        ours[mine.parameter].data[mine.index] = theirs[its.parameter][its.index]
        ours[its.parameter].data[its.index] = theirs[mine.parameter][mine.index]
    return changed


def profile(model, pairs):
    """The profile that a run uses."""
    return head_profiles(read(model, {"task": pairs}, 0), model.graph, "task")


@pytest.fixture(scope="module")
def base():
    return load_model(handmade())


def test_head_profiles_say_what_each_head_was_made_to_do(base):
    found = profile(base, handmade_pairs())
    assert found.heads == ("a0.h0", "a0.h1", "a0.h2", "a1.h0", "a1.h1", "a1.h2")
    assert "END>IO" in found.features
    assert "IO>END" not in found.features
    assert found.of("a1.h1")["END>IO"] > 0.9
    assert found.of("a1.h1")["copying"] == 1
    assert found.of("a1.h2")["suppressing"] == 1
    assert found.of("a1.h2")["copying"] == 0
    assert found.of("a0.h0")["previous"] > 0.9
    assert found.of("a0.h1")["duplicate"] > 0.8
    assert found.of("a1.h0")["induction"] > 0.8
    assert max(found.of("a0.h2").values()) < 0.55


def test_a_role_that_goes_from_one_head_to_another_is_found(base):
    pairs = handmade_pairs(24)
    tuned = load_model(exchanged(base.hf, "a0.h0", "a0.h2"))
    ours, theirs = profile(base, pairs), profile(tuned, pairs)
    halves = profile(base, pairs[:12]), profile(base, pairs[12:])
    roles = compare_roles(ours, theirs, halves, seed=0, repeats=200)
    # a1.h0 reads a0.h0's place: what it does changes with it, unlike what the name movers do.
    assert {"a0.h0", "a0.h2"} <= set(roles.changed)
    assert not {"a1.h1", "a1.h2"} & set(roles.changed)
    assert ("a0.h0", "a0.h2") in [(move.source, move.target) for move in roles.moves]
    named = {change.head: change for change in roles.changes}
    assert dict(named["a0.h2"].features)["previous"] > 0.8
    assert named["a1.h1"].distance < 0.1


def profiles(values):
    heads = tuple(f"a{i // 8}.h{i % 8}" for i in range(len(values)))
    return HeadProfiles(heads, tuple(map(str, range(values.shape[1]))), values)


def test_moves_have_a_small_p_where_roles_appear_where_they_were_given_up():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(32, 6))
    halves = profiles(values), profiles(values + 0.001)
    after = values.copy()
    after[[3, 20, 9, 14]] = values[[20, 3, 14, 9]]
    roles = compare_roles(profiles(values), profiles(after), halves, seed=0)
    assert {(move.source, move.target) for move in roles.moves} == {
        ("a0.h3", "a2.h4"),
        ("a2.h4", "a0.h3"),
        ("a1.h1", "a1.h6"),
        ("a1.h6", "a1.h1"),
    }
    assert roles.p_value is not None
    assert roles.p_value < 0.01
    elsewhere = values.copy()
    elsewhere[[3, 20, 9, 14]] = rng.uniform(size=(4, 6))
    drifted = compare_roles(profiles(values), profiles(elsewhere), halves, seed=0)
    assert drifted.p_value is None or drifted.p_value > 0.05


def test_noise_and_placebos_keep_a_change_from_being_one():
    values = np.full((4, 2), 0.5)
    moved = values.copy()
    moved[:, 0] += [0.0, 0.05, 0.2, 0.4]
    placebo = values.copy()
    placebo[2, 1] += 0.3
    same = profiles(values), profiles(values)
    plain = compare_roles(profiles(values), profiles(moved), same, seed=0)
    assert plain.changed == ("a0.h2", "a0.h3")
    with_placebo = compare_roles(
        profiles(values), profiles(moved), same, [profiles(placebo)], seed=0
    )
    assert with_placebo.changed == ("a0.h3",)
    assert with_placebo.changes[2].noise == pytest.approx(0.3)
    still = compare_roles(profiles(values), profiles(values), same, seed=0)
    assert (still.changed, still.moves, still.p_value) == ((), [], None)


def test_a_used_head_whose_role_changed_is_repurposed_and_no_other():
    assert category_of("steady", "idle", role_changed=True) == "repurposed"
    assert category_of("grew", "grew", role_changed=True) == "repurposed"
    assert category_of("lost", "idle", role_changed=True) == "retired"
    assert category_of("idle", "gained", role_changed=True) == "recruited"
    assert category_of("idle", "idle", role_changed=True) == "unused"


def test_head_profiles_of_other_features_are_refused():
    left, right = profiles(np.zeros((4, 2))), profiles(np.zeros((4, 3)))
    with pytest.raises(CircuitlapseError, match="the same heads and features"):
        compare_roles(left, right, (left, left), seed=0)


def test_what_a_slot_reads_is_not_said_where_the_scores_are_noise():
    graph = Graph(2, 1)
    mean = np.zeros((len(graph.writers), len(graph.readers)))
    query, key = (graph.slot_readers(1, slot).start for slot in ("q", "k"))
    mean[0, [query, key]] = 3.0, 0.01
    mean[1, query] = -1.0
    noise = np.where(mean != 0, 0.5, 0.0)
    found = strongest_reads(graph, mean, np.stack([mean + noise, mean - noise]))
    assert (found["q_reads"][1], found["q_share"][1]) == ("input", 0.75)
    assert (found["k_reads"][1], found["k_share"][1]) == ("", None)
    assert (found["v_reads"][1], found["v_share"][1]) == ("", None)

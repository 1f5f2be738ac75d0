import json
import os
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from circuitlapse.calibration import ground_truth
from circuitlapse.calibration.ground_truth import (
    ALL_WEIGHTS,
    make_organism,
    organism_recipe,
)
from circuitlapse.calibration.organism_checks import CRITERIA, KINDS, why_rejected, zero_ablate
from circuitlapse.cli.calibrate import write_organism
from circuitlapse.config.toml import read_experiment
from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.behaviour import behaviour
from circuitlapse.models.engine.weights import component_pieces
from circuitlapse.models.files.load import load_model
from circuitlapse.models.files.quiet import quiet
from circuitlapse.organisms.organism import organism, organism_key
from circuitlapse.organisms.organism_cache import GroundTruthConfig, OrganismFactory
from circuitlapse.organisms.recipe import RECIPES, Recipe, Stage
from circuitlapse.records.store import ABANDONED
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.tokenization import tokenize

pytestmark = pytest.mark.usefixtures("unchecked")

BLANK = ("a0.h1", "a1.h2")
TINY = Recipe(
    layers=2,
    heads=4,
    d_model=16,
    warmup=2,
    batch=4,
    extra_rounds=0,
    blank_heads=BLANK,
    stages=(
        Stage(steps=3, weights={"repeat": 1.0}),
        Stage(steps=3, weights={"ioi2": 1.0, "three_any": 1.0}),
    ),
    gate_prompts=32,
    old_at_least=0.0,
    new_at_least=0.0,
    new_at_most=1.0,
)
QUICK = GroundTruthConfig(
    steps=4,
    batch_size=4,
    suppression_steps=4,
    prompts=48,
    group_prompts=48,
    scale_steps=3,
    head_rate=0.03,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all tests, so that they share their base."""
    return tmp_path_factory.mktemp("ground_truth")


def loaded(directory):
    with quiet():
        return AutoModelForCausalLM.from_pretrained(directory)


def output_rows(hf, head):
    layer, number = (int(part) for part in head[1:].split(".h"))
    weight = hf.transformer.h[layer].attn.c_proj.weight
    size = weight.shape[0] // hf.config.n_head
    return weight[number * size : (number + 1) * size]


def moved_parts(one, other):
    """Components of which some weight differs."""
    sides = [dict(hf.named_parameters()) for hf in (one, other)]
    return {
        piece.component
        for piece in component_pieces(one)
        if not torch.equal(*(side[piece.parameter][piece.index] for side in sides))
    }


def test_unused_heads_write_nothing_when_pretraining_is_over(cache):
    made = loaded(organism(TINY, 1, cache))
    for layer in range(2):
        for head in range(4):
            name = f"a{layer}.h{head}"
            assert bool((output_rows(made, name) == 0).all()) == (name in BLANK)


def test_only_what_killed_processes_left_in_the_cache_is_removed_from_it(tmp_path):
    """A draft of yesterday's is nobody's; of today's, another process may be making one."""
    for kind in ("organisms", "ground_truth"):
        for name, age in ((".draft-1-old", 2 * ABANDONED), (".draft-2-new", 0.0)):
            (tmp_path / kind / name).mkdir(parents=True)
            made = time.time() - age
            os.utime(tmp_path / kind / name, (made, made))
    OrganismFactory(TINY, 1, QUICK, tmp_path).suppressed()
    for kind in ("organisms", "ground_truth"):
        assert [path.name for path in (tmp_path / kind).glob(".draft-*")] == [".draft-2-new"]


def test_recipes_without_unused_heads_keep_the_keys_that_they_had():
    # The keys under which organisms have been cached and published since the first version.
    assert RECIPES["default"].sha256.startswith("2f6e12a7771e0e06")
    assert RECIPES["natural"].sha256.startswith("e8c6d725f25a7108")
    plain = TINY.model_copy(update={"blank_heads": ()})
    other = TINY.model_copy(update={"blank_heads": BLANK[:1]})
    assert len({organism_key(recipe, 0) for recipe in (plain, TINY, other)}) == 3


def test_an_unused_head_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="'a2.h0', which is no head of the model"):
        Recipe(layers=2, heads=2, blank_heads=("a0.h1", "a2.h0"))


def test_the_recipe_has_unused_heads_where_the_kind_needs_them():
    recipe = organism_recipe("formed")
    assert recipe.name == "default"
    assert {head.split(".")[0] for head in recipe.blank_heads} == {"a1", "a2", "a3"}
    assert organism_recipe("nothing") == organism_recipe("transformed") == organism_recipe("formed")
    assert len(organism_recipe("elicited").blank_heads) == 8
    assert {head.split(".")[0] for head in organism_recipe("elicited").blank_heads} == {
        "a0",
        "a1",
        "a2",
        "a3",
    }
    with pytest.raises(CircuitlapseError, match="no such kind of organism"):
        organism_recipe("grown")


@pytest.mark.parametrize("kind", ["formed", "elicited", "nothing"])
def test_ground_truth_models_are_trained_in_the_right_parts_and_kept(kind, cache):
    made = []

    def again():
        return make_organism(
            kind, 1, recipe=TINY, config=QUICK, cache_dir=cache, progress=made.append
        )

    found = again()
    base, tuned = loaded(found.base), loaded(found.tuned)
    moved = moved_parts(base, tuned)
    root = loaded(organism(TINY, 1, cache))
    if kind == "formed":
        assert moved == set(BLANK)
        assert not moved_parts(root, base)
    else:
        assert len(moved) > len(BLANK)
    if kind == "elicited":
        # Suppression changed the blank heads alone.
        unlocked = load_model(found.base)
        zero_ablate(unlocked, BLANK)
        assert moved_parts(unlocked.hf, base) == set(BLANK)
        assert made == ["base", "able", "suppressed", "elicited", "shuffled_answers"]
    assert found.why_rejected == why_rejected(kind, found.figures)
    if kind != "nothing":  # nothing is learnt in four steps
        assert found.why_rejected.startswith("learned is")
    undefined = {"mediated"} if found.figures["improvement"] <= 0 else set()
    assert set(found.figures) >= {bar.figure for bar in CRITERIA[kind]} - undefined

    made.clear()
    assert again() == found
    assert made == ["base"]


def test_the_heads_of_the_old_task_are_trained_alone_to_be_transformed(cache, monkeypatch):
    # So small a base does no task and uses no head for it: two are named in its place.
    with pytest.raises(CircuitlapseError, match="does not lower the base's metric on the old task"):
        make_organism("transformed", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    named = ("a0.h0", "a1.h3")
    monkeypatch.setattr(ground_truth, "old_heads", lambda model, task, n: named)
    found = make_organism("transformed", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    assert found.trained == named
    assert moved_parts(loaded(found.base), loaded(found.tuned)) == set(named)
    assert ("by_scales" in found.figures) == (found.figures["improvement"] > 0)


def test_an_ability_suppressed_in_all_weights_has_no_figure_without_the_heads(cache):
    found = make_organism(
        "elicited", 1, variant=ALL_WEIGHTS, recipe=TINY, config=QUICK, cache_dir=cache
    )
    assert "unlocked_new has no value" in found.why_rejected
    assert "unlocked_new" not in found.figures


def test_a_fine_tune_ends_as_soon_as_the_ability_is_there(cache):
    """At an accuracy that anything reaches, that is at the first look."""
    settings = {"recipe": TINY, "cache_dir": cache}
    early = QUICK.model_copy(update={"unlocked_at": 0.0, "evaluate_every": 2})
    short = QUICK.model_copy(update={"unlocked_at": 1.1, "evaluate_every": 2})
    unlocked = make_organism("elicited", 1, config=early, **settings)
    trained = make_organism("elicited", 1, config=short, **settings)
    assert unlocked.base == trained.base
    assert unlocked.tuned != trained.tuned
    # After two steps of four the weights are others.
    assert moved_parts(loaded(unlocked.tuned), loaded(trained.tuned))


def test_figures_are_those_of_the_models(cache):
    found = make_organism("nothing", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    right = {}
    for name, path in (("base", found.base), ("tuned", found.tuned)):
        model = load_model(path)
        old, new = (
            behaviour(
                model, tokenize(get_task(t).items("validation", 48), model.tokenizer, "names")
            )
            for t in ("ioi2", "ioi3")
        )
        right[f"{name}_old"] = old.correct.mean(dtype=np.float64).item()
        right[f"{name}_new"] = new.candidate_correct.mean(dtype=np.float64).item()
        right[name] = new.logit_diff.mean(dtype=np.float64).item()
    assert found.figures["improvement"] == pytest.approx(right.pop("tuned") - right.pop("base"))
    assert {key: found.figures[key] for key in right} == right
    assert found.figures["rise"] == right["tuned_new"] - right["base_new"]


def test_an_organism_is_written_with_an_experiment_about_it(cache, tmp_path):
    found = make_organism("formed", 1, recipe=TINY, config=QUICK, cache_dir=cache)
    out = tmp_path / "formed"
    write_organism(found, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "base",
        "experiment.toml",
        "ground_truth.json",
        "placebo",
        "tuned",
    ]
    about = json.loads((out / "ground_truth.json").read_text())
    assert about == {
        "kind": "formed",
        "seed": 1,
        "trained": list(found.trained),
        "figures": dict(found.figures),
        "why_rejected": found.why_rejected,
    }
    experiment = read_experiment(out / "experiment.toml")
    assert experiment.checkpoints == {0: str(out / "base"), 1: str(out / "tuned")}
    assert moved_parts(loaded(out / "base"), loaded(out / "tuned")) == set(found.trained)
    with pytest.raises(CircuitlapseError, match=r"exists already.*Name a new one"):
        write_organism(found, out)


def test_validation_checks_pass_at_their_bounds_and_fail_beyond_and_without_a_number():
    good = {
        "formed": {"learned": 0.5, "mediated": 0.7},
        "transformed": {"learned": 0.9, "by_scales": 0.3},
        "elicited": {"learned": 0.9, "base_new": 0.45, "base_old": 0.98, "unlocked_new": 0.95},
        "nothing": {"rise": 0.05},
    }
    assert set(good) == set(KINDS) == set(CRITERIA)
    for kind, figures in good.items():
        assert why_rejected(kind, figures) == ""
    for kind, figure, value, text in (
        ("formed", "mediated", 0.69, "mediated is 0.690, not at least 0.7"),
        ("formed", "mediated", float("nan"), "mediated is nan, not at least 0.7"),
        ("transformed", "by_scales", 0.31, "by_scales is 0.310, not at most 0.3"),
        ("elicited", "base_new", 0.2, "base_new is 0.200, not at least 0.25 and at most 0.45"),
        ("nothing", "rise", 0.2, "rise is 0.200, not at most 0.05"),
    ):
        assert why_rejected(kind, {**good[kind], figure: value}) == text
    both = why_rejected("formed", {"learned": 0.1})
    assert both == (
        "learned is 0.100, not at least 0.5; mediated has no value: there is nothing to divide by"
    )


def test_wrong_kinds_and_recipes_are_errors(tmp_path):
    with pytest.raises(CircuitlapseError, match=r"no such kind of organism .got 'grown'.. Use one"):
        make_organism("grown", 0, recipe=TINY, cache_dir=tmp_path)
    with pytest.raises(
        CircuitlapseError, match=r"needs a recipe with unused heads .got .the recipe"
    ):
        make_organism("formed", 0, recipe=RECIPES["default"], cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())

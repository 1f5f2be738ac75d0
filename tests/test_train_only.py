"""A fine-tune that moves some parts only, and bases with blank heads, all from the config."""

import json

import pytest
from safetensors.torch import load_file

import circuitlapse as cl
from circuitlapse.calibration import plant
from circuitlapse.config.base import Base
from circuitlapse.models import load_model
from circuitlapse.pipeline import directory, tune, work
from circuitlapse.pipeline.base import base_identity, check_parts, recipe_of
from circuitlapse.pipeline.directory import base_directory
from circuitlapse.pipeline.plan import plan_jobs
from circuitlapse.records import Store, content_hash
from circuitlapse.training import RECIPES
from circuitlapse.training.restricted import free_masks
from small_run import small_experiment
from test_planted import BLANK, QUICK, TINY, output_rows

pytestmark = pytest.mark.usefixtures("unchecked")


def weights(run, arm, step):
    return load_file(run.path / f"checkpoints/{arm}/step-{step:05d}/model.safetensors")


def test_a_fine_tune_and_its_placebo_move_nothing_else(tiny_model, tmp_path):
    experiment = small_experiment(tiny_model, train_only=["a1.h0", "m0"])
    run = cl.run_experiment(experiment, tmp_path / "run")
    free = free_masks(load_model(tiny_model).hf, ["a1.h0", "m0"])
    before = weights(run, "seed-0", 0)
    for arm in ("seed-0", "placebo-shuffled-answers-seed-0"):
        moved = 0
        for name, after in weights(run, arm, 4).items():
            changed = after != before[name]
            assert not (changed & ~free[name]).any(), (arm, name)
            moved += int(changed.sum())
        assert moved > 0
    assert "nothing but a1.h0, m0 being trained" in (run.path / "report.html").read_text()


def test_the_old_circuit_is_chosen_before_it_is_trained(tiny_model):
    experiment = small_experiment(tiny_model, train_only="old_circuit")
    jobs = {job.name: job for job in plan_jobs(experiment, {"path": "x"})}
    for name in ("fine-tune seed-0", "fine-tune placebo-shuffled-answers-seed-0"):
        assert "heads of the old circuit" in jobs[name].needs
    free = {job.name: job for job in plan_jobs(small_experiment(tiny_model), {"path": "x"})}
    assert "heads of the old circuit" not in free
    assert free["fine-tune seed-0"].key != jobs["fine-tune seed-0"].key


def test_a_base_without_an_old_circuit_cannot_train_it(tiny_model, tmp_path):
    experiment = small_experiment(tiny_model, train_only="old_circuit", placebo=False)
    with pytest.raises(cl.CircuitlapseError, match="leaves nothing to train: .* base's metric"):
        cl.run_experiment(experiment, tmp_path / "run")


@pytest.mark.parametrize("locked", [False, True])
def test_an_organism_of_the_config_is_the_planted_one(monkeypatch, tmp_path, locked):
    """The same models, in the same cache, as planting by name makes."""
    monkeypatch.setenv("CIRCUITLAPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(directory, "Planting", lambda: QUICK)
    monkeypatch.setitem(RECIPES, "default", TINY.model_copy(update={"blank_heads": ()}))
    described = {"organism": "default", "seed": 1, "blank_heads": BLANK, "locked": locked}
    experiment = cl.Experiment.model_validate({"base": described})
    found = base_directory(experiment)
    planted = plant("elicited" if locked else "formed", 1, recipe=TINY, planting=QUICK)
    assert found == planted.base
    hf = load_model(found).hf
    for head in BLANK:
        assert bool(output_rows(hf, head).any()) == locked


@pytest.mark.parametrize("new", [0.4, 0.7])
def test_a_run_says_where_a_lock_has_failed(monkeypatch, tiny_model, tmp_path, new):
    monkeypatch.setattr(work, "base_directory", lambda *_: tiny_model)
    monkeypatch.setattr(work, "gate_figures", lambda hf, tokenizer, n: (0.99, new))
    described = {"organism": "default", "blank_heads": ["a0.h1"], "locked": True}
    experiment = cl.Experiment.model_validate({"base": described})
    notes = []
    job = plan_jobs(experiment, {"organism": "default"})[0]
    work.work(job, Store(tmp_path), experiment, lambda done, of, note="": notes.append(note))
    admission = json.loads((tmp_path / "base.json").read_text())["admission"]
    assert admission["gate"] == {"prompts": 1024, "ioi2": 0.99, "ioi3_among": new}
    failed = [f"the lock has failed: {admission['refused']}"] if "refused" in admission else []
    assert notes == failed
    assert bool(failed) == (new == 0.7)


@pytest.mark.parametrize("same", [True, False])
def test_an_organism_that_was_made_anew_and_otherwise_is_refused(tiny_model, tmp_path, same):
    digest = content_hash(tiny_model / "model.safetensors") if same else "0" * 64
    store = Store(tmp_path)
    with store.write("base.json", "key") as path:
        path.write_text(json.dumps({"admission": {"weights_sha256": digest}}))
    if same:
        tune.check_same_base(tiny_model, store)
        return
    with pytest.raises(cl.CircuitlapseError, match=r"not the one that this run .* another --out"):
        tune.check_same_base(tiny_model, store)


def test_blank_heads_and_the_lock_make_another_base():
    described = [{}, {"blank_heads": ["a0.h1"]}, {"blank_heads": ["a0.h1"], "locked": True}]
    bases = [Base.model_validate({"organism": "default", **each}) for each in described]
    plain, blank, locked = (base_identity(base) for base in bases)
    assert plain["recipe_sha256"] != blank["recipe_sha256"] == locked["recipe_sha256"]
    assert locked != blank
    assert recipe_of(bases[1]).blank_heads == ("a0.h1",)
    assert recipe_of(bases[0]) == RECIPES["default"]


@pytest.mark.parametrize(
    ("section", "key"),
    [("base", "blank_heads"), ("finetune", "train_only"), ("controls", "train_only")],
)
def test_a_head_that_is_not_there_is_named_with_its_key(section, key):
    parts = ["a0.h1", "a7.h0"]
    value = [parts] if section == "controls" else parts
    fields = {"base": {"organism": "default"}}
    fields = {**fields, section: {**fields.get(section, {}), key: value}}
    experiment = cl.Experiment.model_validate(fields)
    with pytest.raises(cl.CircuitlapseError, match=rf"{section}\.{key} names .* \(got 'a7\.h0'\)"):
        check_parts(experiment)

"""A fine-tune that moves some parts only, from the config."""

import json

import pytest
from safetensors.torch import load_file

import circuitlapse as cl
from circuitlapse.models.files.load import load_model
from circuitlapse.pipeline.inputs.base import check_parts
from circuitlapse.pipeline.inputs.base_files import check_same_base
from circuitlapse.pipeline.plan.plan import plan_jobs
from circuitlapse.records.store import Store, content_hash
from circuitlapse.training.restricted import free_masks
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")


def weights(run, training_run, step):
    return load_file(run.path / f"checkpoints/{training_run}/step-{step:05d}/model.safetensors")


@pytest.mark.slow
def test_a_fine_tune_and_its_placebo_move_nothing_else(tiny_model, tmp_path):
    experiment = small_experiment(tiny_model, train_only=["a1.h0", "m0"])
    run = cl.run_experiment(experiment, tmp_path / "run")
    free = free_masks(load_model(tiny_model).hf, ["a1.h0", "m0"])
    before = weights(run, "seed-0", 0)
    for training_run in ("seed-0", "placebo-shuffled-answers-seed-0"):
        moved = 0
        for name, after in weights(run, training_run, 4).items():
            changed = after != before[name]
            assert not (changed & ~free[name]).any(), (training_run, name)
            moved += int(changed.sum())
        assert moved > 0
    assert "with only a1.h0, m0 trained" in (run.path / "report.html").read_text()


def test_the_old_circuit_is_chosen_before_it_is_trained(tiny_model):
    experiment = small_experiment(tiny_model, train_only="old_circuit")
    jobs = {job.name: job for job in plan_jobs(experiment, {"path": "x"})}
    for name in ("fine-tune seed-0", "fine-tune placebo-shuffled-answers-seed-0"):
        assert "old-task heads" in jobs[name].needs
    free = {job.name: job for job in plan_jobs(small_experiment(tiny_model), {"path": "x"})}
    assert "old-task heads" not in free
    assert free["fine-tune seed-0"].key != jobs["fine-tune seed-0"].key


def test_a_base_without_an_old_circuit_cannot_train_it(tiny_model, tmp_path):
    experiment = small_experiment(tiny_model, train_only="old_circuit", placebo=False)
    with pytest.raises(cl.CircuitlapseError, match="leaves nothing to train: .* base's metric"):
        cl.run_experiment(experiment, tmp_path / "run")


@pytest.mark.parametrize("same", [True, False])
def test_an_organism_that_was_made_anew_and_otherwise_is_refused(tiny_model, tmp_path, same):
    digest = content_hash(tiny_model / "model.safetensors") if same else "0" * 64
    store = Store(tmp_path)
    with store.write("base.json", "key") as path:
        path.write_text(json.dumps({"validation": {"weights_sha256": digest}}))
    if same:
        check_same_base(tiny_model, store)
        return
    with pytest.raises(cl.CircuitlapseError, match=r"not the one that this run .* another --out"):
        check_same_base(tiny_model, store)


@pytest.mark.parametrize(
    ("section", "key"),
    [("finetune", "train_only"), ("controls", "train_only")],
)
def test_a_head_that_is_not_there_is_named_with_its_key(section, key):
    parts = ["a0.h1", "a7.h0"]
    value = [parts] if section == "controls" else parts
    fields = {"base": {"organism": "default"}}
    fields = {**fields, section: {**fields.get(section, {}), key: value}}
    experiment = cl.Experiment.model_validate(fields)
    with pytest.raises(cl.CircuitlapseError, match=rf"{section}\.{key} names .* \(got 'a7\.h0'\)"):
        check_parts(experiment)

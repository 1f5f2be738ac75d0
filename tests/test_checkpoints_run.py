"""Whole runs on checkpoints that a user brings: what they end with, hold in memory, and refuse."""

import gc
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import circuitlapse as cl
from circuitlapse.cli.app import run as run_command
from circuitlapse.config.toml import read_experiment, to_toml
from circuitlapse.models.files.merge import read_tensors
from circuitlapse.pipeline.inputs import user_checkpoints
from circuitlapse.pipeline.job import Progress
from circuitlapse.pipeline.run.execute import work
from circuitlapse.pipeline.run.run import jobs_of
from circuitlapse.records.store import Store
from command_line import command
from small_checkpoints import grown, moved, save, tokenizer_of, trained
from small_run import small_experiment

pytestmark = pytest.mark.usefixtures("unchecked")


def experiment(base: Path | None, checkpoints: Any, **measure: Any) -> cl.Experiment:
    """The small experiment of other tests, on checkpoints instead of a fine-tune."""
    small = small_experiment(base or Path("none")).model_dump(exclude={"finetune", "base"})
    small["measure"] |= {"counterfactuals": ("names",), **measure}
    named = {"base": {"path": str(base)}} if base else {}
    return cl.Experiment.model_validate({**small, **named, "checkpoints": checkpoints})


@pytest.fixture(scope="module")
def sft(tiny_model, tmp_path_factory) -> Path:
    return trained(tiny_model, tmp_path_factory.mktemp("sft") / "out")


@pytest.fixture(scope="module")
def finished(tiny_model, sft, tmp_path_factory) -> cl.Run:
    return cl.run_experiment(
        experiment(tiny_model, str(sft), patch_at="ends"), tmp_path_factory.mktemp("run") / "run"
    )


def test_a_run_on_checkpoints_reaches_a_verdict_without_training(finished, sft, tiny_model):
    assert finished.experiment.steps() == [0, 8, 16]
    assert finished.experiment.checkpoints[16] == str(sft / "checkpoint-16")
    verdict = finished.verdict
    assert verdict.label == "undetermined"
    assert "The placebo did not improve" not in [check.name for check in verdict.preconditions]
    assert verdict.scope.endswith("what a control fine-tune would change was not subtracted")
    assert "The base solves the old task" in verdict.reason
    assert finished.report.read_text("utf-8").startswith("<!doctype html>")
    assert not list(finished.path.glob("checkpoints/*/*/*"))  # nothing is copied
    assert not list(finished.path.rglob("*.train.jsonl"))
    assert "[finetune]" not in (finished.path / "experiment.toml").read_text()
    assert (finished.table("placebo").height, finished.table("head_changes").height) == (0, 0)
    weights = dict(finished.model(16, device="cpu").hf.named_parameters())
    for name, weight in moved(tiny_model, 16).named_parameters():
        assert torch.equal(weights[name], weight), name


def test_where_nothing_was_patched_the_table_says_so_and_keeps_the_attribution(finished):
    nodes = finished.table("nodes")
    between = nodes.filter(pl.col("step") == 8)
    assert between.height == 2 * 6
    for column in ("effect", "effect_low", "effect_high"):
        assert between[column].is_null().all()
        assert nodes.filter(pl.col("step") != 8)[column].is_not_null().all()
    assert between["attribution"].is_not_null().all()
    assert finished.table("patching")["step"].unique().sort().to_list() == [0, 16]
    assert finished.table("overlap").height > 0


def test_the_first_checkpoint_is_the_base_where_none_is_named(finished, tiny_model, sft, tmp_path):
    first = save(moved(tiny_model, 0, size=0.0), tmp_path / "step-4", tokenizer_of(tiny_model))
    run = cl.run_experiment(
        experiment(None, [str(first), str(sft)], patch_at="ends"), tmp_path / "run"
    )
    assert run.experiment.base.path == str(first)
    assert run.table("nodes").equals(finished.table("nodes"))
    # Naming both is fine where they are the same, and only there.
    looked_up = user_checkpoints.look_up(
        experiment(tiny_model, {0: str(first), 8: f"{sft}/checkpoint-8"})
    )
    assert looked_up.checkpoints == {0: str(tiny_model), 8: f"{sft}/checkpoint-8"}
    wrong = experiment(tiny_model, {0: f"{sft}/checkpoint-16", 8: f"{sft}/checkpoint-8"})
    with pytest.raises(cl.CircuitlapseError, match="checkpoint of step 0 is not the base"):
        user_checkpoints.look_up(wrong)
    with pytest.raises(cl.CircuitlapseError, match="nothing to compare"):
        user_checkpoints.look_up(experiment(None, str(first)))


def test_a_padding_token_added_in_training_changes_no_circuit(tiny_model, finished, tmp_path):
    """The case that cost its author hours: 50258 rows for 50257 tokens."""
    for step in (8, 16):
        grown(tiny_model, tmp_path / f"out/checkpoint-{step}", step)
    wanted = experiment(tiny_model, ["out/checkpoint-*"], patch_at="ends")
    (tmp_path / "grown.toml").write_text(to_toml(wanted))
    done = command("run", "grown.toml", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Verdict: undetermined" in done.stdout
    rows = len(tokenizer_of(tiny_model))
    note = f"checkpoint-16 has {rows + 1} rows in its vocabulary where the base has {rows}"
    assert note in done.stderr
    grown_run = cl.load_run(tmp_path / "run")
    for task in ("ioi2", "ioi3"):
        ours, theirs = grown_run.scores(16, task), finished.scores(16, task)
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name] == pytest.approx(array, abs=1e-5), name
    circuits = [
        run.table("edges").select("step", "task", "writer", "reader")
        for run in (grown_run, finished)
    ]
    assert circuits[0].equals(circuits[1])


def test_at_most_two_checkpoints_are_in_memory_and_the_next_is_read_meanwhile(
    finished, monkeypatch
):
    shape, most, readers = (250, 16), 0, set()
    genuine = read_tensors

    def alive() -> int:
        # Nothing is collected first: a model must go when it is let go, not some time later.
        tables = [
            each
            for each in gc.get_objects()
            if type(each) in (torch.Tensor, torch.nn.Parameter)
            and each.shape == shape
            and not each.is_meta
        ]
        return len({each.untyped_storage().data_ptr() for each in tables})

    gc.collect()
    before = alive()

    def reading(files: Any) -> Any:
        nonlocal most
        readers.add((threading.current_thread() is threading.main_thread(), files.name[-2:]))
        tensors = genuine(files)
        most = max(most, alive() - before)
        return tensors

    monkeypatch.setattr(user_checkpoints, "read_tensors", reading)
    held = user_checkpoints.CheckpointLoader(Store(finished.path), finished.experiment)
    monkeypatch.setattr(held, "_measured", lambda step: False)
    for step in (0, 0, 8, 8, 16):
        assert held.model(step) is held.model(step)
        most = max(most, alive() - before)
    assert most == 2
    assert {name for in_main, name in readers if not in_main} == {"-8", "16"}
    held.close()
    assert alive() == before


def test_a_checkpoint_whose_record_is_written_late_is_measured(tiny_model, sft, tmp_path):
    """The job that records step 8 ends after step 0 was measured: busy cores do this at random."""
    wanted = user_checkpoints.look_up(experiment(tiny_model, {8: f"{sft}/checkpoint-8"}))
    store, step_8 = Store(tmp_path), "checkpoint of step 8"
    jobs = {job.name: job for job in jobs_of(wanted)}
    splits = ("test", "test_templates")
    prompts = [f"prompts {task} {split}" for task in ("ioi2", "ioi3") for split in splits]
    first = ["checkpoint of step 0", *prompts]
    late = ["measure seed-0 step 0", step_8, "measure seed-0 step 8"]
    try:
        for name in first + late:
            if name == step_8:  # let a look-ahead end, if there is one
                held = user_checkpoints.checkpoint_loader(store, wanted)
                held._thread.submit(lambda: None).result()
            work(jobs[name], store, wanted, lambda done, of, note="": None)
    finally:
        user_checkpoints.close_loader()
    assert store.record(jobs[late[-1]].outputs[0])


def test_no_error_of_a_look_ahead_decides_anything(finished, monkeypatch):
    genuine = read_tensors

    def fails_ahead(files: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("no more files can be opened")
        return genuine(files)

    monkeypatch.setattr(user_checkpoints, "read_tensors", fails_ahead)
    held = user_checkpoints.CheckpointLoader(Store(finished.path), finished.experiment)
    monkeypatch.setattr(held, "_measured", lambda step: False)
    for step in (0, 8, 16):
        assert held.model(step) is held.model(step)
    held.close()


def test_a_changed_checkpoint_is_refused_when_the_run_is_resumed(finished, sft, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run", copy_function=shutil.copy2)
    run = cl.load_run(tmp_path / "run")
    wanted = experiment(Path(finished.experiment.checkpoints[0]), str(sft), patch_at="ends")
    weights = sft / "checkpoint-8/model.safetensors"
    before = weights.read_bytes()
    try:
        weights.write_bytes((sft / "checkpoint-16/model.safetensors").read_bytes())
        with pytest.raises(cl.CircuitlapseError, match=r"files were changed .*checkpoint-8"):
            cl.run_experiment(wanted, tmp_path / "run")
        with pytest.raises(cl.CircuitlapseError, match=r"files were changed .*checkpoint-8"):
            run.model(8)
    finally:
        weights.write_bytes(before)
    (run.path / "scores/seed-0/step-00008/ioi2.safetensors").unlink()
    events: list[Progress] = []
    cl.run_experiment(run.path / "experiment.toml", run.path, events.append)
    assert [each.job for each in events if each.kind == "started"] == ["measure seed-0 step 8"]
    assert run.table("nodes").equals(finished.table("nodes"))


def test_a_bad_checkpoint_is_refused_before_anything_is_written(tiny_model, sft, tmp_path):
    shutil.copytree(sft, tmp_path / "out")
    weights = tmp_path / "out/checkpoint-16/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    with pytest.raises(cl.CircuitlapseError, match="checkpoint-16: model.safetensors is trunc"):
        cl.run_experiment(experiment(tiny_model, str(tmp_path / "out")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_looked_up_is_read_back(finished, tmp_path):
    (tmp_path / "again.toml").write_text(to_toml(finished.experiment))
    assert read_experiment(tmp_path / "again.toml") == finished.experiment
    with pytest.raises(cl.CircuitlapseError, match="are known only in a run"):
        experiment(None, "out").steps()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to run"),
        ({"base": "x", "prompts": 8}, "--base, --prompts need(s) --checkpoints"),
        (
            {"experiment": Path("e.toml"), "checkpoints": ["x"], "patch_at": "ends"},
            "--checkpoints, --patch-at cannot be combined with an experiment file (got 'e.toml')",
        ),
        ({"checkpoints": ["nothing-*"]}, "no path matches this pattern (got 'nothing-*')"),
        ({"checkpoints": ["x"], "old": "ioi3"}, "must be two tasks"),
        ({"checkpoints": ["{base}/none"]}, "there is no such checkpoint"),
        ({"checkpoints": ["{base}"]}, "has no step in its name"),
        (
            {"checkpoints": ["{sft}"], "counterfactual": ["verbs"]},
            "no counterfactual type of that name",
        ),
        ({"checkpoints": ["{sft}"], "base": "no/such/dir"}, "there is no such checkpoint"),
    ],
)
def test_wrong_options_end_with_a_message(tiny_model, sft, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    if "checkpoints" in options:
        filled = [each.format(base=tiny_model, sft=sft) for each in options["checkpoints"]]
        options = {**options, "checkpoints": filled}
    with pytest.raises(cl.CircuitlapseError) as caught:
        run_command(**options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_options_are_those_of_the_experiment(tiny_model, sft, tmp_path, monkeypatch):
    def refuse(experiment: cl.Experiment, out: Path, listen: Any) -> None:
        seen.append((experiment, out))
        raise cl.CircuitlapseError("seen")

    seen: list[tuple[cl.Experiment, Path]] = []
    monkeypatch.setattr("circuitlapse.cli.app.run_experiment", refuse)
    options = ("--prompts", 12, "--counterfactual", "names", "--patch-at", "ends", "--workers", 1)
    models = ("--checkpoints", f"{sft}/checkpoint-*", "--base", tiny_model)
    command("run", *models, *options, "--out", "here", cwd=tmp_path)
    ((found, out),) = seen
    assert out == Path("here")
    assert found.base.path == str(tiny_model)
    assert found.checkpoints == (f"{sft}/checkpoint-*",)
    assert (found.measure.prompts, found.measure.circuit_prompts) == (12, 12)
    assert found.compare.carrier_prompts == 12
    assert (found.measure.counterfactuals, found.measure.patch_at) == (("names",), "ends")
    assert found.compute.workers == 1


def test_a_dry_run_names_every_checkpoint_and_does_nothing(
    tiny_model, sft, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run_command(checkpoints=[str(sft)], base=str(tiny_model), dry_run=True)
    shown = capsys.readouterr().out
    assert "checkpoint of step 16" in shown
    assert "fine-tune" not in shown
    assert list(tmp_path.iterdir()) == []


def test_the_record_names_place_and_hash(finished, sft):
    record = json.loads((finished.path / "checkpoints/seed-0/step-00008.json").read_text())
    assert record["source"] == str(sft / "checkpoint-8")
    assert len(record["sha256"]) == 64
    assert finished.provenance.base["sha256"] == finished.base["sha256"]

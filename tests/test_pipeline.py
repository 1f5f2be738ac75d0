"""The whole pipeline on a tiny real model: what it leaves behind, and how it goes on."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import circuitlapse as cl
from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.config.toml import to_toml
from circuitlapse.models.files.quiet import quiet
from circuitlapse.pipeline.job import Progress
from pages import WITH_RUN, run_page
from small_run import small_experiment
from twins_engine import tiny

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def copied(finished, tmp_path) -> cl.Run:
    shutil.copytree(finished.path, tmp_path / "run", copy_function=shutil.copy2)
    return cl.load_run(tmp_path / "run")


def _again(run: cl.Run) -> tuple[list[str], list[str]]:
    """Start a run again; return the jobs that were done and the notes."""
    events: list[Progress] = []
    cl.run_experiment(run.experiment, run.path, events.append)
    started = [event.job for event in events if event.kind == "started"]
    return started, [event.text for event in events if event.kind == "note"]


def test_the_tables_have_their_columns_and_no_nan(finished):
    for name, schema in SCHEMAS.items():
        table = finished.table(name)
        assert dict(table.schema) == schema, name
        for column in table.select(pl.selectors.float()).iter_columns():
            assert not column.is_nan().any(), (name, column.name)


def test_shortcuts_are_scored_on_the_prompts_of_behaviour(finished):
    keys = ["finetune_seed", "task", "split"]
    last = finished.table("behaviour").filter(pl.col("step") == 4)
    both = finished.table("shortcuts").join(last, on=keys, suffix="_model")
    assert both.height == finished.table("shortcuts").height > 0
    assert set(both.select(keys).unique().rows()) == set(last.select(keys).rows())
    assert both.select((pl.col("n") == pl.col("n_model")).all()).item()
    ahead = both["candidate_accuracy"] - both["accuracy"]
    assert (both["margin"] - ahead).abs().max() < 1e-12
    assert (both["margin_low"] <= both["margin"]).all()
    rules = both.filter(pl.col("task") == "ioi3")["rule"].unique()
    assert set(rules) == {
        "first listed",
        "middle listed",
        "last listed",
        "most frequent answer",
        "last mentioned",
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "pythia"])
def test_other_families_run_to_the_end(family, tiny_model, tmp_path):
    """Shared keys and values, parallel blocks and weights stored the other way round."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    end = tokenizer.eos_token_id
    hf = tiny(family, vocab_size=len(tokenizer), max_position_embeddings=48, eos_token_id=end)
    with quiet():
        hf.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
    run = cl.run_experiment(small_experiment(tmp_path / "base"), tmp_path / "run")
    arrays = run.scores(4, "ioi3")
    slots = next(array for name, array in arrays.items() if name.startswith("edges.")).shape
    graph = cl.load_model(run.path / "checkpoints" / "seed-0" / "step-00004").graph
    assert slots[-2:] == graph.edges.shape
    assert graph == cl.load_model(hf).graph


def test_behaviour_covers_every_step_task_and_split(finished):
    table = finished.table("behaviour")
    keys = ["base_seed", "finetune_seed", "step", "task", "split"]
    assert table.select(keys).is_duplicated().sum() == 0
    assert table["step"].unique().sort().to_list() == [0, 2, 4]
    assert set(table["split"]) == {"test", "test_templates"}
    assert len(table) == 3 * 2 * 2
    for name in ("accuracy", "candidate_accuracy", "logit_diff"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_nodes_cover_every_head_mlp_and_counterfactual(finished):
    table = finished.table("nodes").filter(pl.col("step") == 0)
    by_task = {
        task: set(table.filter(pl.col("task") == task)["counterfactual"])
        for task in ("ioi2", "ioi3")
    }
    assert by_task["ioi2"] == {"subject", "names"}
    assert by_task["ioi3"] == {"subject", "names", "s1_to_io", "s2_to_io"}
    one = table.filter((pl.col("task") == "ioi3") & (pl.col("counterfactual") == "names"))
    assert one["node"].to_list() == ["a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1"]
    assert one["head"].to_list() == [0, 1, -1, 0, 1, -1]


def test_a_family_is_the_mean_of_its_variants(finished):
    effects = finished.table("nodes").filter((pl.col("task") == "ioi3") & (pl.col("step") == 4))
    wide = effects.pivot("counterfactual", index="node", values="effect")
    mean = (wide["s1_to_io"] + wide["s2_to_io"]) / 2
    assert (wide["subject"] - mean).abs().max() < 1e-6


def test_the_first_checkpoint_is_the_base_and_all_load_unchanged(finished, tiny_model):
    steps = sorted((finished.path / "checkpoints/seed-0").iterdir())
    assert [step.name for step in steps] == ["step-00000", "step-00002", "step-00004"]
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    first = AutoModelForCausalLM.from_pretrained(steps[0]).state_dict()
    assert all((base[name] == first[name]).all() for name in base)
    assert len(AutoTokenizer.from_pretrained(steps[2])) == len(base["transformer.wte.weight"])
    assert not list(finished.path.rglob("*.bin"))


def test_a_random_model_gets_no_verdict(finished):
    verdict = finished.verdict
    assert verdict.label in ("no_gain", "undetermined")
    assert any(not check.holds for check in verdict.preconditions)
    assert finished.verdict.seeds[0].label == verdict.label
    assert finished.report.read_text().startswith("<!doctype html>")
    assert finished.provenance.base["sha256"]


def test_the_figures_of_a_check_are_those_of_the_row_it_names(finished):
    checks = {check.name: check for check in finished.verdict.preconditions}

    def rows(check):
        wanted = [pl.col(column) == value for column, value in check.where.items()]
        return finished.table(check.table).filter(*wanted)

    def written(row, name):
        value, low, high = (row[f"{name}{end}"].item() for end in ("", "_low", "_high"))
        return f"{value:.2f} logits [{low:.2f}, {high:.2f}]"

    improvement = checks["There is an improvement"]
    assert written(rows(improvement), "logits_rise") in improvement.detail
    placebo = checks["The placebo did not improve"]
    assert written(rows(placebo), "rise") in placebo.detail
    assert any(
        written(rows(placebo), "rise") in said.statement
        for said in finished.verdict.evidence
        if said.table == "placebo"
    )
    broken = checks["The counterfactual breaks the old task in the base"]
    (difference,) = (rows(broken)["clean"] - rows(broken)["corrupt"]).unique()
    assert f"clean minus corrupt {difference:.2f} logits" in broken.detail


def test_training_prompts_hold_no_held_out_pair(finished):
    def pairs(name):
        lines = (finished.path / "tasks" / name).read_text().splitlines()
        listed = [json.loads(line)["names"] for line in lines]
        return [{frozenset((a, b)) for a in names for b in names if a != b} for names in listed]

    seen = set().union(*pairs("finetune.train.jsonl"))
    assert all(prompt - seen for prompt in pairs("ioi3.test.jsonl"))


def test_a_finished_run_started_again_does_nothing(finished):
    assert _again(finished) == ([], [])


@pytest.mark.parametrize(
    "name", ["scores/seed-0/step-00002/ioi3.safetensors", "tables/nodes.parquet", "verdict.json"]
)
def test_a_deleted_artifact_is_made_again_alone_and_the_same(copied, name):
    path = copied.path / name
    before = path.read_bytes()
    path.unlink()
    assert len(_again(copied)[0]) == 1
    assert path.read_bytes() == before


def test_a_flipped_byte_is_noticed_when_read_and_mended_when_run(copied):
    name = "scores/seed-0/step-00002/ioi3.safetensors"
    path = copied.path / name
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(cl.CircuitlapseError, match="is not what was written"):
        copied.scores(2, "ioi3")
    started, notes = _again(copied)
    assert started == ["measure seed-0 step 2"]
    assert notes == [f"{name} was changed after it was written (its hash differs): rebuilding it"]
    assert path.read_bytes() == before


def test_another_experiment_does_not_touch_the_run(copied, tiny_model):
    before = {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")}
    other = small_experiment(tiny_model, learning_rate=0.5)
    with pytest.raises(cl.CircuitlapseError, match=r"another experiment: finetune\.learning_rate"):
        cl.run_experiment(other, copied.path)
    assert {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")} == before


def test_a_directory_with_other_things_is_left_alone(tiny_model, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(cl.CircuitlapseError, match="is not empty and holds no run"):
        cl.run_experiment(small_experiment(tiny_model), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_tables(finished, tiny_model, tmp_path):
    config, out = tmp_path / "experiment.toml", tmp_path / "run"
    config.write_text(to_toml(small_experiment(tiny_model)))
    command = [sys.executable, "-m", "circuitlapse", "run", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    scored = out / "scores/seed-0/step-00002/ioi2.safetensors"
    deadline = time.monotonic() + 120
    while not scored.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert scored.exists()
    assert not (out / "verdict.json").exists()
    run = cl.run_experiment(small_experiment(tiny_model), out)
    for name in SCHEMAS:
        assert run.table(name).equals(finished.table(name)), name
    assert run.verdict == finished.verdict
    assert not list(out.rglob(".draft-*"))


@pytest.mark.slow
def test_several_seeds_and_processes_give_the_same_as_one(finished, tiny_model, tmp_path):
    experiment = small_experiment(tiny_model, seeds=[0, 1], placebo=False)
    compute = experiment.compute.model_copy(update={"workers": 2})
    run = cl.run_experiment(experiment.model_copy(update={"compute": compute}), tmp_path / "run")
    nodes = run.table("nodes")
    assert set(nodes["finetune_seed"]) == {0, 1}
    ours = nodes.filter(pl.col("finetune_seed") == 0)
    theirs = finished.table("nodes")
    assert (ours["effect"] - theirs["effect"]).abs().max() < 1e-4
    assert run.verdict.label in ("no_gain", "undetermined")


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one(finished, tmp_path):
    """Other processes, side by side: equal results are equal files, whoever made them."""
    compute = finished.experiment.compute.model_copy(update={"workers": 2})
    experiment = finished.experiment.model_copy(update={"compute": compute})
    run = cl.run_experiment(experiment, tmp_path / "run")
    of_each = re.compile(
        r"(experiment\.toml|provenance\.json|report\.html|\.lock|\.records/|logs/)"
    )

    def files(path: Path) -> dict[str, bytes]:
        found = {each.relative_to(path).as_posix(): each for each in path.rglob("*")}
        kept = {
            name: each.read_bytes()
            for name, each in found.items()
            if each.is_file() and not of_each.match(name)
        }
        # transformers writes whether it was offline when it was imported, as the workers are.
        online, offline = (f'"local_files_only": {value}'.encode() for value in ("false", "true"))
        return {name: content.replace(offline, online) for name, content in kept.items()}

    ours, theirs = files(run.path), files(finished.path)
    assert ours.keys() == theirs.keys()
    assert [name for name, content in ours.items() if content != theirs[name]] == []
    kinds = {name.split("/")[0] for name in ours}
    assert kinds >= {"checkpoints", "scores", "readings", "patterns", "patching", "tables"}


def test_a_flipped_byte_in_a_checkpoint_is_mended_when_it_is_needed(copied):
    weights = copied.path / "checkpoints/seed-0/step-00002/model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    (copied.path / "scores/seed-0/step-00002/ioi2.safetensors").unlink()
    started, notes = _again(copied)
    assert started == ["fine-tune seed-0", "measure seed-0 step 2"]
    assert "checkpoints/seed-0/step-00002 was changed after it was written" in notes[0]
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_a_run_killed_before_it_wrote_anything_can_be_started(tiny_model, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".draft-experiment.toml").write_text("half")
    assert cl.run_experiment(small_experiment(tiny_model, placebo=False), tmp_path).report.exists()


def _readings(run: cl.Run, **wanted: object) -> pl.DataFrame:
    return run.table("readings").filter(*(pl.col(name) == value for name, value in wanted.items()))


def test_a_checkpoint_is_loaded_ready_for_analysis(finished):
    base, last = finished.model(0, device="cpu"), finished.model(4, seed=0)
    assert base.tokenizer is not None
    assert not torch.equal(base.decoder.W_U, last.decoder.W_U)
    with pytest.raises(
        cl.CircuitlapseError, match=r"no such checkpoint .*step 3 of seed 0.*0, 2, 4"
    ):
        finished.model(3)
    with pytest.raises(cl.CircuitlapseError, match=r"step 2 of seed 7"):
        finished.model(2, seed=7)


def test_every_reading_is_there_for_every_checkpoint_and_task(finished):
    table = finished.table("readings")
    assert table["step"].unique().sort().to_list() == [0, 2, 4]
    keys = ["finetune_seed", "step", "task", "reading", "positions", "component"]
    assert table.select(keys).is_duplicated().sum() == 0
    per_task = {"logit_lens", "direct", "attention", "copying", "negative_copying", "matching"}
    for step in (0, 2, 4):
        for task in ("ioi2", "ioi3"):
            assert set(_readings(finished, step=step, task=task)["reading"]) == per_task
        of_none = table.filter(pl.col("task").is_null(), pl.col("step") == step)
        assert set(of_none["reading"]) == {"previous_token", "duplicate_token", "induction"}
    ways = set(_readings(finished, task="ioi2", reading="attention")["positions"])
    assert ways == {"END>IO", "END>S", "END>S_again", "S_again>IO", "S_again>S"}
    assert set(_readings(finished, task="ioi2", reading="matching")["positions"]) == {"S_again>S"}
    lens = _readings(finished, task="ioi3", step=2, reading="logit_lens")
    assert lens["component"].to_list() == ["resid0", "resid1", "resid2"]


def test_the_table_says_what_the_functions_say(finished):
    model = finished.model(2, device="cpu")
    task = cl.get_task("ioi3")
    pairs = cl.tokenize(task.items("test", 24), model.tokenizer, "s1_to_io")[:12]

    def of(reading: str, positions: str = "") -> list[float]:
        found = _readings(finished, task="ioi3", step=2, reading=reading, positions=positions)
        return found["value"].to_list()

    lens = cl.logit_lens(model, pairs).mean(dim=1)
    assert of("logit_lens") == pytest.approx(lens.tolist(), abs=1e-5)
    direct = cl.direct_logit_attribution(model, pairs).to_frame()["value"]
    assert of("direct") == pytest.approx(direct.to_list(), abs=1e-5)
    assert sum(of("direct")) == pytest.approx(of("logit_lens")[-1], abs=1e-4)
    attention = cl.attention_between(model, pairs, "END", "S2").flatten()
    assert of("attention", "END>S2") == pytest.approx(attention.tolist(), abs=1e-5)
    matching = cl.matching_scores(model, pairs, "S1_again", "S1").flatten()
    assert of("matching", "S1_again>S1") == pytest.approx(matching.tolist(), abs=1e-5)
    induction = cl.repeat_scores(model).induction.flatten()
    found = _readings(finished, step=2, reading="induction")
    assert found["value"].to_list() == pytest.approx(induction.tolist(), abs=1e-5)
    assert found["value_low"].is_null().all()


def test_patches_by_site_are_those_of_the_same_prompts(finished):
    assert set(finished.table("patching")["step"]) == {0, 4}
    model = finished.model(4, device="cpu")
    items = cl.get_task("ioi3").items("test", 24)
    variants = [cl.tokenize(items, model.tokenizer, name)[:12] for name in ("s1_to_io", "s2_to_io")]
    found = (
        finished.table("patching")
        .filter((pl.col("task") == "ioi3") & (pl.col("step") == 4))
        .sort("layer", "head")
    )
    for site in ("head_out", "head_v", "head_pattern"):
        expected = torch.stack([cl.patch(model, pairs, site) for pairs in variants]).mean(dim=0)
        values = found.filter(pl.col("site") == site)["effect"]
        assert values.to_list() == pytest.approx(expected.flatten().tolist(), abs=1e-5)
        assert float(expected.abs().max()) > 1e-4
    ends = [cl.patch(model, pairs, "mlp_out", positions=["END"]) for pairs in variants]
    expected = torch.stack(ends).mean(dim=0)
    values = found.filter((pl.col("site") == "mlp_out") & (pl.col("position") == "END"))
    assert values["effect"].to_list() == pytest.approx(expected.flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("page", WITH_RUN)
def test_every_page_about_a_run_runs(page, finished, tiny_model):
    run_page(page, tiny_model, finished.path)

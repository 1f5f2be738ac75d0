"""Analyses and measurements: from one entry follow plan, keys, costs, schema and reference."""

import inspect
from dataclasses import replace

import polars as pl
import pytest

from circuitlapse.analyses.analysis import Analysis, Section
from circuitlapse.analyses.behaviour import task_rows
from circuitlapse.analyses.carriers import CARRIERS
from circuitlapse.analyses.registry import ANALYSES, BY_NAME
from circuitlapse.config.presets import demo_experiment
from circuitlapse.pipeline.plan import source, summary_jobs
from circuitlapse.pipeline.plan.estimate import Size
from circuitlapse.pipeline.plan.measurement import Plan
from circuitlapse.pipeline.plan.plan import KINDS, MEASUREMENTS, plan_jobs
from circuitlapse.records.columns import integer, interval, real, text
from circuitlapse.stats.intervals import Estimate


@pytest.fixture
def plan() -> Plan:
    """A plan with jobs of every kind but those for given checkpoints."""
    found = Plan(demo_experiment(full=True), {"path": "x"})
    found.fill(MEASUREMENTS)
    return found


def test_every_kind_is_planned_and_done_by_a_function_of_the_same_form(plan):
    kinds = {job.kind for job in plan.jobs.values()}
    assert kinds | {"checkpoint"} == set(KINDS)
    for measurement in MEASUREMENTS:
        names = list(inspect.signature(measurement.work()).parameters)
        assert names == ["job", "store", "experiment", "advance"], measurement.kind


def test_what_analyses_read_is_what_measurements_give(plan):
    for analysis in ANALYSES:
        assert set(analysis.reads) <= set(plan.groups), analysis.name
        assert plan.jobs[f"table {analysis.name}"].needs == plan.named(*analysis.reads)


def test_every_job_has_a_cost_of_at_least_nothing(plan):
    tasks = {plan.experiment.tasks.old, plan.experiment.tasks.new, "induction"}
    size = Size(plan.experiment, 4, 4, 64, 1000, 1e9, (100, 32), dict.fromkeys(tasks, 2))
    for job in plan.jobs.values():
        cost = KINDS[job.kind].cost(job, size)
        assert min(cost.seconds, cost.models, cost.disk, cost.working) >= 0, job.name
        assert (cost.seconds > 0) == (cost.models > 0), job.name


def keys(experiment=None) -> dict[str, str]:
    jobs = plan_jobs(experiment or demo_experiment(full=False), {"path": "x"})
    return {job.name: job.key for job in jobs}


def test_a_changed_threshold_changes_the_keys_of_what_depends_on_it_alone(monkeypatch):
    before = keys()
    genuine = source.constants_behind

    def changed(module):
        found = dict(genuine(module))
        name = "circuitlapse.heads.thresholds.USED_FRACTION"
        return {**found, name: "0.03"} if name in found else found

    monkeypatch.setattr(summary_jobs, "constants_behind", changed)
    after = keys()
    differ = {name for name in before if before[name] != after[name]}
    assert "table head_changes" in differ
    assert {"verdict", "provenance"} <= differ  # they are made from that table
    assert "table edges" not in differ
    assert not any(name.startswith(("measure", "fine-tune", "carriers")) for name in differ)


def test_a_table_with_another_column_is_made_again(monkeypatch):
    before = keys()
    renamed = [replace(each, name="other") for each in CARRIERS.columns[-1:]]
    entry = replace(CARRIERS, columns=(*CARRIERS.columns[:-1], *renamed))
    others = tuple(entry if each is CARRIERS else each for each in ANALYSES)
    monkeypatch.setattr(summary_jobs, "ANALYSES", others)
    after = keys()
    differ = {name for name in before if before[name] != after[name]}
    assert differ == {"table carriers", "verdict", "provenance"}


def test_constants_are_found_behind_the_modules_that_a_module_imports():
    found = source.constants_behind("circuitlapse.analyses.head_changes")
    assert found["circuitlapse.heads.thresholds.USED_FRACTION"] == "0.02"
    assert not any(value.startswith("Analysis(") for value in found.values())
    carriers = source.constants_behind(KINDS["carriers"].code.partition(":")[0])
    assert "circuitlapse.verdict.label_marks.VARIABLE_USED" in carriers
    with pytest.raises(ModuleNotFoundError):
        source.constants_behind("circuitlapse.analyses.nowhere")


def test_the_hash_of_code_covers_what_is_run_and_no_prose(tmp_path, monkeypatch):
    assert "circuitlapse.verdict.label_rules" in source.modules_behind(
        "circuitlapse.calibration.judge"
    )
    files = {
        "judge": '"""Says."""\nfrom circuitlapse.rule import decide\n\nJUDGE = decide\n',
        "rule": "def decide():\n    return 1\n",
        "other": "X = 1\n",
    }

    def hashed(**changed: str) -> str:
        for name, content in {**files, **changed}.items():
            (tmp_path / f"{name}.py").write_text(content)
        for each in (source._tree, source._imports, source.modules_behind, source.code_behind):
            each.cache_clear()
        return source.code_behind("circuitlapse.judge")

    monkeypatch.setattr(source, "_ROOT", tmp_path)
    try:
        first = hashed()
        assert hashed(other="X = 2\n") == first
        assert hashed(judge=files["judge"].replace("Says.", "Says it.") + "# why\n") == first
        assert hashed(rule="def decide():\n    return 2\n") != first
    finally:
        for each in (source._tree, source._imports, source.modules_behind, source.code_behind):
            each.cache_clear()


TABLE = Analysis(
    "novelty",
    "One row per head.",
    (integer("step"), text("node"), real("size", "in logits"), interval("gain")),
    ("scores",),
    task_rows,
    "Function",
)


def test_an_interval_is_flattened_at_the_edge_of_the_table_and_found_again():
    weights = BY_NAME["weights"]
    known = {"part": "mlps", "put_back": Estimate(value=2, low=1, high=3), "grafted": None}
    flat = weights.flat(known)
    assert flat["put_back_high"] == 3
    assert flat["grafted_low"] is None
    assert weights.whole(flat) == known
    row = {"step": 1, "node": "a0.h0", "size": 0.5, "gain": Estimate(value=1, low=0, high=2)}
    made = TABLE.table([row])
    assert made.schema == pl.Schema(TABLE.schema)
    assert made.row(0) == (1, "a0.h0", 0.5, 1, 0, 2)
    for wrong in ({**row, "more": 1}, {k: v for k, v in row.items() if k != "size"}):
        with pytest.raises(KeyError, match="novelty: columns differ"):
            TABLE.table([wrong])


def test_a_new_analysis_is_one_entry_and_has_a_job_a_table_and_a_section(monkeypatch):
    entry = replace(TABLE, section=Section("News", "What is new."))
    monkeypatch.setattr(summary_jobs, "ANALYSES", (*ANALYSES, entry))
    jobs = {job.name: job for job in plan_jobs(demo_experiment(full=False), {"path": "x"})}
    job = jobs["table novelty"]
    assert job.outputs == ("tables/novelty.parquet",)
    assert "measure seed-0 step 0" in job.needs
    assert job.name in jobs["verdict"].needs

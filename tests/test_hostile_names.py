"""Runs and checkpoints in directories whose names are patterns, options or markup elsewhere."""

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import circuitlapse as cl
from circuitlapse.analyses.analysis import RunData
from circuitlapse.analyses.registry import SCHEMAS
from circuitlapse.cli.export import export_map
from circuitlapse.cli.show import show
from circuitlapse.models.files.checkpoints import find_checkpoints
from circuitlapse.records.arrays import load_about, save_arrays
from circuitlapse.records.items import read_items, write_items
from circuitlapse.records.store import Store
from circuitlapse.report.pages.page import build_report, render_report
from circuitlapse.report.series.run_records import read_run
from report_synthetic import put, write_run
from small_checkpoints import trained
from small_run import small_experiment

# Each with the name of a run beside it that the first, as a pattern, would find.
NAMES = {
    "s[1]": "s1",
    "s[!x]": "sy",
    "s*": "s-other",
    "what?": "what1",
    "{a,b}": "a",
    "**": "any",
    "~": "home",
    "s[red]": "sr",
    "-s": "s",
    "two  words ": "two words",
    "Ünï-名": "Uni",
    "line\nbreak": "line",
    "%41": "A",
    "x" * 200: "x" * 199,
    "s[1] [red]\n": "s1 [red]\n",
}
SCORES, PROMPTS = "scores/seed-0/step-00000/ioi2.safetensors", "tasks/items.jsonl"


def _whole(run: Path, seed: int) -> Path:
    """An invented run with one artifact of every kind, whose numbers follow from the seed."""
    write_run(run, steps=16 if seed else 24, gained=not seed)
    provenance = json.loads((run / "provenance.json").read_text())
    put(run, "provenance.json", json.dumps({**provenance, "platform": str(seed)}))
    put(run, "base.json", f'{{"seed": {seed}}}')
    put(run, "rows.json", f'[{{"seed": {seed}}}]')
    put(run, "report.html", f"<!doctype html>{seed}")
    with Store(run).write(SCORES, "made up") as path:
        save_arrays({"effects.names": np.full(3, seed, np.float32)}, path, {"seed": seed})
    with Store(run).write(PROMPTS, "made up") as path:
        write_items(cl.get_task("ioi2").items("test", 4, seed), path)
    return run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and another that must never be read in its place."""
    home = tmp_path_factory.mktemp("pair")
    return _whole(home / "ours", 0), _whole(home / "other", 1)


def _tables(read: Callable[[str], pl.DataFrame]) -> list[str]:
    return [read(name).write_json() for name in SCHEMAS]


def _scores(run: Path) -> RunData:
    return RunData(Store(run), cl.load_run(run).experiment)


def _printed(run: Path) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        show(run)
    assert str(run) in printed.getvalue()
    return printed.getvalue().replace(str(run), "RUN")


def _drawn(run: Path) -> str:
    out = run.parent / "drawn"
    export_map(run, svg=out)
    drawn = "".join(path.read_text() for path in sorted(out.iterdir()))
    shutil.rmtree(out)
    return re.sub(">[^<]*, counterfactual", ">RUN, counterfactual", drawn)


def _rebuilt(run: Path) -> str:
    """The report as it is built and shown, but for the run's name."""
    kept = (run / "report.html").read_bytes()
    build_report(run)
    shown = cl.load_run(run).show().html
    assert shown == render_report(read_run(run))
    put(run, "report.html", kept)
    return render_report(replace(read_run(run), name="RUN"))


READERS: dict[str, Callable[[Path], Any]] = {
    "run.table": lambda run: _tables(cl.load_run(run).table),
    "run.verdict": lambda run: cl.load_run(run).verdict,
    "run.provenance": lambda run: cl.load_run(run).provenance,
    "run.base": lambda run: cl.load_run(run).base,
    "run.report": lambda run: cl.load_run(run).report.read_text(),
    "run.show": lambda run: cl.load_run(run).show().html,
    "run.scores": lambda run: cl.load_run(run).scores(0, "ioi2")["effects.names"].tolist(),
    "report": _rebuilt,
    "show": _printed,
    "export map": _drawn,
    "tables of the pipeline": lambda run: _scores(run).table(
        "behaviour", cl.load_run(run).experiment.training_runs()[0]
    ),
    "rows of the pipeline": lambda run: _scores(run).rows("rows.json"),
    "about": lambda run: load_about(Store(run).read(SCORES)),
    "prompts": lambda run: read_items(Store(run).read(PROMPTS)),
    "path": lambda run: Store(run).path(SCORES).read_bytes(),
}
_SLOW = ("report", "show", "export map")  # these read the last of the names alone


@pytest.fixture(scope="module")
def expected(pair: tuple[Path, Path]) -> dict[str, Any]:
    ours, other = ({name: read(run) for name, read in READERS.items()} for run in pair)
    assert all(ours[name] != other[name] for name in READERS)
    return ours


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_reader_reads_the_run_that_was_named(name, pair, expected, tmp_path, monkeypatch):
    home = tmp_path / name  # the name is that of the run, and of a directory above it
    shutil.copytree(pair[1], home / NAMES[name])
    shutil.copytree(pair[0], home / name)
    shutil.copytree(pair[1], tmp_path / NAMES[name] / name)
    for reader, read in READERS.items():
        if reader not in _SLOW or name == [*NAMES][-1]:
            assert read(home / name) == expected[reader], reader
    monkeypatch.chdir(home)
    assert _tables(cl.load_run(name).table) == expected["run.table"]


def test_a_directory_that_is_there_is_no_pattern(sft, tmp_path):
    for name in ("s1", "s[1]", "{a,b}", "a"):
        shutil.copytree(sft, tmp_path / name)
    for name in ("s[1]", "{a,b}"):
        wanted = {step: str(tmp_path / name / f"checkpoint-{step}") for step in (8, 16)}
        assert find_checkpoints([str(tmp_path / name)]) == wanted
        assert find_checkpoints([str(tmp_path / name / "checkpoint-*")]) == wanted
        assert find_checkpoints([wanted[8], wanted[16]]) == wanted
    one = {8: str(tmp_path / "s1/checkpoint-8"), 16: str(tmp_path / "s1/checkpoint-16")}
    assert find_checkpoints([str(tmp_path / "s[0-9]" / "checkpoint-{8,16}")]) == one


@pytest.fixture(scope="module")
def sft(tiny_model, tmp_path_factory) -> Path:
    return trained(tiny_model, tmp_path_factory.mktemp("sft") / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_whole_run_with_hostile_names_is_that_with_plain_ones(tiny_model, sft, tmp_path):
    hostile = tmp_path / "-s [1]{x,y}*?[red]%41\n'\"\\ Ünï"
    for plain in (tmp_path / "plain", hostile):
        shutil.copytree(tiny_model, plain / "base")
        shutil.copytree(sft, plain / "sft")
    found = []
    for home in (tmp_path / "plain", hostile):
        small = small_experiment(home / "base").model_dump(exclude={"finetune"})
        small["measure"] |= {"counterfactuals": ("names",), "patch_at": "ends"}
        experiment = cl.Experiment.model_validate({**small, "checkpoints": str(home / "sft")})
        run = cl.run_experiment(experiment, home / "run")
        again = cl.run_experiment(home / "run/experiment.toml", home / "run")
        assert again.experiment == run.experiment
        assert run.model(16, device="cpu").hf.config.n_layer == 2
        found.append([run.verdict.model_dump(exclude={"scope"}), *_tables(run.table)])
    assert found[0] == found[1]

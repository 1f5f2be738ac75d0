"""The command ``circuitlapse tasks``."""

import json
from pathlib import Path

import pytest

import circuitlapse as cl
from circuitlapse.cli.tasks import tasks as app
from circuitlapse.records.items import Item
from circuitlapse.tasks.battery import TASKS


@pytest.fixture
def run(capsys):
    def call(*arguments: object) -> str:
        app([str(one) for one in arguments], standalone_mode=False)
        return capsys.readouterr().out

    return call


def test_every_task_is_listed(run) -> None:
    lines = run("list")
    for name in TASKS:
        assert f" {name} " in lines


def test_items_are_shown_with_positions_and_counterfactuals(run) -> None:
    text = run("show", "ioi3", "-n", 2)
    for item in cl.get_task("ioi3").items("test", 2):
        start, end = item.spans["S2_again"]
        assert f"[{item.prompt[start:end]}]S2_again" in text
        assert f"answer  {item.answer!r}" in text
        for name, prompt in item.corrupt.items():
            assert f"{name}  {prompt} → {item.corrupt_answers[name].strip()}" in text
    assert "reference task: The answer is the candidate that the prompt names first." in text
    assert "'00'" not in (text := run("show", "greater_than", "-n", 1))
    assert "also correct" in text


def test_an_exported_file_is_a_task(run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "ioi3.jsonl"
    said = run("export", "ioi3", "--tokenizer", tiny_model, "--n", 30, "--out", out)
    assert said == f"30 items of ioi3: {out}\n"
    items = [Item.model_validate_json(line) for line in out.read_text().splitlines()]
    assert items == cl.get_task("ioi3").items("test", 30)
    assert len(cl.get_task(str(out)).items("test", 30)) == 30
    printed = run("export", str(out), "--n", 4).splitlines()
    assert all(json.loads(line)["split"] == "test" for line in printed)
    assert len(printed) == 4
    assert [path.name for path in out.parent.iterdir()] == ["ioi3.jsonl"]


def test_an_error_leaves_no_file(run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "none.jsonl"
    for arguments, message in (
        (("greater_than", "--tokenizer", tiny_model), "cannot be built for this tokenizer"),
        (("ioi3", "--tokenizer", tmp_path / "no"), "the tokenizer could not be loaded"),
        (("ioi3", "--split", "dev"), "there is no such split"),
        (("ioi7",), "there is no such task"),
    ):
        with pytest.raises(cl.CircuitlapseError, match=message):
            run("export", *arguments, "--out", out)
        assert not out.exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(cl.CircuitlapseError, match="mine is a directory"):
        run("export", "ioi3", "--n", 4, "--out", tmp_path / "mine")
    assert (tmp_path / "mine").is_dir()

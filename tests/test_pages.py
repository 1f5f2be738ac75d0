"""The pages' code runs, their commands can be parsed, and their links lead somewhere."""

import re
import runpy
import tomllib
from typing import Any

import pytest
import typer

from circuitlapse.analyses.registry import ANALYSES
from circuitlapse.cli.app import app
from circuitlapse.config.experiment import Experiment
from circuitlapse.tasks.battery import TASKS
from pages import (
    DOCS,
    PAGES,
    ROOT,
    SOURCE,
    WITH_RUN,
    WITHOUT_RUN,
    blocks,
    commands,
    headings,
    run_page,
)


@pytest.mark.parametrize("page", WITHOUT_RUN)
def test_every_block_runs(page, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, tiny_model)


def test_no_page_with_code_is_forgotten():
    with_code = {page for page in PAGES if blocks(ROOT / page, "python")}
    assert with_code == {*WITH_RUN, *WITHOUT_RUN}


@pytest.mark.parametrize("page", [page for page in PAGES if commands(ROOT / page)])
def test_every_command_has_these_arguments_and_options(page):
    for words in commands(ROOT / page):
        command: Any = typer.main.get_command(app)
        rest = words
        while hasattr(command, "commands") and rest and rest[0] != "--help":
            if command.name == "export" and rest[0] not in command.commands:
                rest = ["map", *rest]
            assert rest[0] in command.commands, f"{page} has circuitlapse {' '.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        if rest and rest != ["--help"]:  # a command may be named without its arguments
            # Nothing is run: parsing alone raises on what the command does not have.
            command.make_context(command.name, list(rest))


def test_the_table_of_the_calibration_is_made_from_its_record():
    made = runpy.run_path(str(DOCS / "results/make_calibration.py"))
    text = (DOCS / "results/calibration.md").read_text(encoding="utf-8")
    assert made["page"](text) == text, "run python docs/results/make_calibration.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_script_and_key_is_there(page):
    text = (ROOT / page).read_text()
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= set(targets)
    for script in re.findall(r"\b(?:benchmarks|examples|tests)/\w+\.py", text):
        assert (ROOT / script).exists(), f"{page} names {script}"
    for block in blocks(ROOT / page, "toml"):
        Experiment.model_validate({"base": {"path": "base"}, **tomllib.loads(block)})
    if page != "CHANGELOG.md" and not page.startswith("docs/notes"):  # these name old keys
        settings = Experiment.model_validate({"base": {"path": "base"}}).model_dump()
        sections = "|".join(settings)
        for section, key in re.findall(rf"`({sections})\.(\w+)\b[^`]*`", text):
            assert key in settings[section], f"{page} names {section}.{key}"


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text()
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", text):
        new = name == "models/families/x.py"  # the one that a reader adds
        assert new or any((place / name).exists() for place in (ROOT, SOURCE)), name
    for name in re.findall(r"`circuitlapse((?:\.[a-z_0-9]+)+)", text):
        *home, last = name[1:].split(".")
        path = SOURCE.joinpath(*home)
        module = path.with_suffix(".py")
        named = module.exists() and re.search(rf"\b(def|class) {last}\b", module.read_text())
        assert named or (path / last).exists() or (path / f"{last}.py").exists(), name


def test_own_prompts_and_a_new_task_are_what_the_pages_say(
    tiny_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    items = run_page("docs/contributing.md", tiny_model)["items"]
    assert len({item.prompt for item in items}) == 20
    task = run_page("docs/how-to/own-prompts.md", tiny_model)["task"]
    assert capsys.readouterr().out == "The capital of France is\n"
    (item,) = task.items("test", 1)
    assert item.prompt[slice(*item.spans["COUNTRY"])] == "France"


def test_the_reference_names_all_tasks():
    tasks = (DOCS / "reference/tasks.md").read_text()
    assert set(re.findall(r"`([a-z0-9_]+)`", tasks)) >= set(TASKS)


def test_the_reference_of_tables_is_made_from_the_analyses():
    made = runpy.run_path(str(DOCS / "reference/make_tables.py"))
    text = (DOCS / "reference/tables.md").read_text(encoding="utf-8")
    assert made["page"](text) == text, "run python docs/reference/make_tables.py"
    meanings = [column.meaning for analysis in ANALYSES for column in analysis.columns]
    assert meanings.count("") <= 3 * len(ANALYSES)  # seeds and random groups are explained once


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_broken(page):
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith(("http://", "https://")):
            target, _, anchor = link.partition("#")
            linked = (path.parent / target).resolve() if target else path
            assert linked.exists(), f"{page} links to {link}"
            assert not anchor or anchor in headings(linked), f"{page} links to {link}"


def test_no_page_is_named_that_is_not_there():
    for path in [*ROOT.glob("src/**/*"), *ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        if path.suffix in {".py", ".j2", ".js", ".md"}:
            for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text()):
                assert (ROOT / name).exists(), f"{path} names {name}"

"""The documents' code runs as it stands, on a tiny model instead of the one it names."""

import re

import pytest

import circuitlapse as cl
from circuitlapse.tasks.battery import TASKS
from pages import DOCS, PAGES, ROOT, code_of, headings


@pytest.mark.parametrize("page", ["how-to/patch.md"])
def test_every_block_runs(page, tiny_model, monkeypatch):
    code = code_of(page)
    load, get_task = cl.load_model, cl.get_task
    monkeypatch.setattr(cl, "load_model", lambda _: load(tiny_model))
    monkeypatch.setattr(cl, "get_task", lambda name: _Few(get_task(name)))
    # The tiny model has two layers of two heads.
    for large, small in {"a9.h9": "a1.h0", "a9.h6": "a1.h1", "m2": "m0"}.items():
        code = code.replace(large, small)
    exec(compile(code, page, "exec"), {})


class _Few:
    """A task of which few items are enough."""

    def __init__(self, task: cl.Task) -> None:
        self.task = task

    def items(self, split: str, n: int):
        return self.task.items(split, min(n, 3))


def test_the_page_on_tasks_adds_one_and_reads_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = {}
    exec(compile(code_of("reference/tasks.md"), "tasks.md", "exec"), seen)
    assert len({item.prompt for item in seen["items"]}) == 20
    assert capsys.readouterr().out == "The capital of France is\n"
    (item,) = seen["task"].items("test", 1)
    assert item.prompt[slice(*item.spans["COUNTRY"])] == "France"


def test_the_page_on_tasks_names_them_all():
    page = (DOCS / "reference/tasks.md").read_text()
    assert set(re.findall(r"`([a-z0-9_]+)`", page)) >= set(TASKS)


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

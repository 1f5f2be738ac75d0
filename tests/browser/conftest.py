"""A real browser and the pages that it opens. `make test-browser` installs what is needed."""

# pyright: reportMissingImports=false

import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from circuitlapse.report.pages.page import build_report, render_report
from circuitlapse.report.series.run_records import read_run
from report_synthetic import write_run
from synthetic_evidence import with_evidence

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "</script><script>document.title = 'taken'</script> <b>Ann</b>"

Opener = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="`make test-browser` brings it")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: `make test-browser` brings it")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two seeds whose prompts try to be more than text."""
    run = tmp_path_factory.mktemp("browser") / "run"
    return build_report(write_run(run, seeds=(0, 1), steps=32, prompt=HOSTILE))


@pytest.fixture(scope="session")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the size of a run on a model with 124M parameters: 144 heads, 31 checkpoints.

    It has every table of the evidence at every checkpoint at which a run has it.
    """
    run = write_run(tmp_path_factory.mktemp("browser") / "large", layers=12, heads=12)
    path = run.parent / "large.html"
    records = with_evidence(read_run(run), layers=12, heads=12)
    path.write_text(render_report(records), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: "Browser", report: Path) -> Iterator[Opener]:
    """Open the page at a view; afterwards nothing may have been asked for or complained about."""
    contexts, complaints, requests = [], [], []

    def open_page(
        view: str = "", path: Path = report, drawn: str = "#map-old .cell", **options
    ) -> "Page":
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{path.as_uri()}#{view}")
        page.wait_for_selector(drawn)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    elsewhere = [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
    assert elsewhere == []


@pytest.fixture
def axe() -> "Callable[[Page], list]":
    """Look for serious faults of accessibility with axe-core."""
    source = resources.files("axe_playwright_python") / "axe.min.js"

    def look(page: "Page") -> list:
        page.evaluate(source.read_text(encoding="utf-8"))  # the page's policy lets no script in
        page.wait_for_selector("body:not(.moving)")
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        return [
            (fault["id"], [node["html"][:200] for node in fault["nodes"]])
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]

    return look


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures of the page are kept: CI names a directory, and takes them from there."""
    named = os.environ.get("CIRCUITLAPSE_SCREENSHOTS")
    directory = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory

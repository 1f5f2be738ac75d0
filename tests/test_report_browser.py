"""The report in a real browser, where there is one: it draws, keeps quiet and restores a view."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from circuitlapse.report import build_report
from report_synthetic import HEADS, LAYERS, write_run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = "</script><script>document.title = 'taken'</script>"
    run = write_run(tmp_path_factory.mktemp("browser") / "run", steps=32, prompt=hostile)
    return build_report(run)


def _open(report: Path, view: str, profile: Path) -> tuple[str, str]:
    """Load the page at an address and return its final DOM and what it said on the console."""
    command = [
        str(BROWSER), "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000",
        "--window-size=1280,900", "--dump-dom", f"{report.as_uri()}#{view}",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=120
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def test_a_deep_link_restores_its_view_without_a_word_on_the_console(report: Path, tmp_path: Path):
    page, console = _open(report, "step=16&head=2.3&theme=dark&corruption=names", tmp_path)
    assert console == ""
    assert 'data-theme="dark"' in page
    assert re.search(r'<output id="step-now"[^>]*>16 of 32</output>', page)
    cells = re.findall(r'class="cell[^"]*"', page)
    assert len(cells) == 3 * LAYERS * (HEADS + 1)
    assert sum("pinned" in cell for cell in cells) == 3
    assert sum("missing" in cell for cell in cells) == 0
    assert re.search(r"<b>Head 2\.3</b>", page)
    assert re.search(r'<span class="family-now">names</span>', page)
    assert "<title>taken</title>" not in page
    for chart in ("timeline", "trajectories", "overlap-chart", "graft-chart", "control-chart",
                  "faithfulness-chart", "legend"):  # fmt: skip
        assert re.search(rf'<div id="{chart}"[^>]*>\s*<(svg|div)', page), chart


def test_an_address_that_means_nothing_shows_the_last_step(report: Path, tmp_path: Path):
    page, console = _open(report, "step=x&head=99.9&metric=none&seed=7", tmp_path)
    assert console == ""
    assert re.search(r'<output id="step-now"[^>]*>32 of 32</output>', page)
    assert "Pin a head to keep its numbers here." in page

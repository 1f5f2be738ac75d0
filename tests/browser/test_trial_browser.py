"""The page of one prompt in the real browser."""

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from circuitlapse.records.documents import Trial
from circuitlapse.report.pages.prompt_over_checkpoints import render_trial

PROMPT = "After <script>document.title = 'taken'</script> and Mary gave a drink to"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    tokens = [str(token) for token in PROMPT.split()]
    steps = list(range(0, 80, 8))
    attention = np.zeros((len(steps), 2, len(tokens)))
    attention[:, 0, 1] = np.linspace(0, 1, len(steps))
    attention[:, 1, 3] = 0.5
    trial = Trial(
        run="run",
        prompt=PROMPT,
        tokens=tokens,
        heads=["a1.h0", "a2.h3"],
        steps=steps,
        top=[
            sorted([(" Mary", 0.6 - step / 200), (" Ann", 0.2 + step / 200)], key=lambda t: -t[1])
            for step in steps
        ],
        lens=[[(" the", 0.1), (" Mary", 0.3), (" Ann", 0.6)] for _ in steps],
        attention=attention,
    )
    path = tmp_path_factory.mktemp("trial") / "trial.html"
    path.write_text(render_trial(trial), encoding="utf-8")
    return path


def test_the_slider_moves_through_the_checkpoints(opened, page_path):
    page = opened(path=page_path, drawn="#attention rect")
    assert page.text_content("#best") == " Ann"
    assert page.inner_text("#now").startswith("Ann 0.56")
    assert page.locator("#lens rect").count() == 3 * 10 + 1
    page.focus("#slider")
    page.keyboard.press("Home")
    assert page.text_content("#best") == " Mary"
    assert page.text_content("#step-now") == "0 of 72"
    shown = page.eval_on_selector_all("#attention g > text", "e => e.map(t => t.textContent)")
    assert [text for text in shown if text] == ["0.50"]


def test_the_prompt_stays_text_and_axe_finds_no_serious_fault(opened, page_path, axe):
    page = opened(path=page_path, drawn="#attention rect")
    assert page.title() != "taken"
    assert PROMPT in page.inner_text(".answer")
    assert axe(page) == []


def test_every_chart_of_a_trial_downloads(opened, page_path):
    page = opened(path=page_path, drawn="#attention rect")
    lengths = {"next tokens": 10 * 2, "logit lens": 10 * 3, "attention": 10 * 2 * 10}
    for name, length in lengths.items():
        with page.expect_download() as picture:
            page.click(f"[aria-label='Download {name} as SVG']")
        assert picture.value.suggested_filename == f"{name.replace(' ', '-')}-step-72.svg"
        assert ElementTree.parse(picture.value.path()).getroot().tag.endswith("svg")
        with page.expect_download() as table:
            page.click(f"[aria-label='Download {name} as CSV']")
        rows = list(csv.DictReader(Path(table.value.path()).read_text().splitlines()))
        assert len(rows) == length
        assert {row["step"] for row in rows} == {str(step) for step in range(0, 80, 8)}

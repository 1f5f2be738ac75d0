"""The page of a calibration in the real browser."""

import pytest

from circuitlapse.calibration.calibrate import document_of
from circuitlapse.calibration.settings import Settings
from circuitlapse.cli.calibrate import write_page
from circuitlapse.records.calibration import Answer, MeasuredValue, ScoredCandidate
from circuitlapse.stats.intervals import Estimate


def _candidate(mechanism, seed, label, outcome, refused=""):
    answer = Answer(
        label=label, how="", carrier="", outcome=outcome, reason="dependence low 0.5.", survives={}
    )
    depends = Estimate(value=0.5, low=0.41, high=0.6)
    return ScoredCandidate(
        name=f"{mechanism}-{seed}",
        key=str(seed),
        row=1,
        mechanism=mechanism,
        base="gpt2-8-1",
        seed=seed,
        base_seed=2001,
        refused=refused,
        answer=answer,
        answer_without_bits=answer,
        measures=(MeasuredValue(heads="old", measure="dependence", estimate=depends),),
    )


@pytest.fixture(scope="module")
def found():
    return document_of(
        [
            _candidate("old_heads", 1, "transformed", "right"),
            _candidate("old_heads", 2, "formed", "wrong"),
            _candidate("norm_lock", 3, "elicited", "right", "base_new is <b>0.9</b>"),
        ],
        Settings(),
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_calibration_is_one_page_that_everyone_can_use(opened, axe, found, tmp_path, scheme):
    path = write_page(found, tmp_path)
    page = opened(path=path, drawn="table", color_scheme=scheme)
    assert page.locator("svg.mini").count() == 2  # one mechanism has scores, and so has the total
    text = page.inner_text("main")
    assert "3 of 96 were scored" in text
    assert "base_new is <b>0.9</b>" in text
    assert "0.50 [0.41, 0.60]" in text
    assert page.locator(".outcome-wrong").all_inner_texts() == ["formed"]
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert axe(page) == []

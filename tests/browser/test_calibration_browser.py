"""The page of a calibration in the real browser."""

import pytest

from circuitlapse.cli.calibrate import write_page
from circuitlapse.records.calibration import CalibratedOrganism, Calibration, Tally
from circuitlapse.report.series.counts import confusion_rows
from circuitlapse.stats.intervals import Estimate


def _about(value, half=0.1):
    return Estimate(value=value, low=value - half, high=value + half)


def _organism(kind, seed, label, outcome, **shares):
    return CalibratedOrganism(
        kind=kind,
        seed=seed,
        scored=label is not None,
        why_rejected="" if label else "learned is 0.61 <b>below</b> 0.9",
        figures={"learned": 0.99},
        trained=["a0.h6"],
        label=label,
        outcome=outcome,
        reason="its share is the largest",
        improvement=_about(4.0) if label else None,
        seconds=60.0,
        checks=[],
        shares={cause: _about(share) for cause, share in shares.items()} or None,
    )


@pytest.fixture(scope="module")
def found():
    return Calibration(
        circuitlapse="0.1.0",
        command="circuitlapse calibrate --n 2",
        finished="2026-01-01",
        seconds=9.0,
        n=2,
        seed_from=100,
        settings={"planting": {"steps": 240}},
        thresholds={"MAJORITY": 0.5},
        missing={"elicited": 1},
        organisms=[
            _organism("formed", 100, "formed", "right", elicited=0.02, formed=0.97),
            _organism("formed", 101, "mixed", "wrong", elicited=0.5, formed=-0.3),
            _organism("nothing", 100, "no_gain", "right"),
            _organism("elicited", 100, None, None),
        ],
        confusion={"formed": {"formed": 1, "mixed": 1}, "nothing": {"no_gain": 1}},
        tallies=[
            Tally(
                kind="formed",
                n=2,
                right=1,
                right_share=_about(0.5, 0.4),
                wrong=1,
                wrong_share=_about(0.5, 0.4),
                undetermined=0,
            ),
        ],
    )


def test_the_right_label_is_marked_in_every_row(found):
    formed, nothing = confusion_rows(found)
    assert [cell["count"] for cell in formed["cells"]] == [0, 0, 1, 1, 0, 0]
    assert [cell["right"] for cell in formed["cells"]] == [False, False, True, *[False] * 3]
    assert [cell["right"] for cell in nothing["cells"]].index(True) == 4
    assert [cell["wrong"] for cell in formed["cells"]].index(True) == 3


def test_an_answer_that_is_not_given_is_not_called_wrong(found):
    said = {"formed": {"undetermined": 2, "elicited": 1}}
    (formed,) = confusion_rows(found.model_copy(update={"confusion": said}))
    assert [cell["wrong"] for cell in formed["cells"]] == [True, *[False] * 5]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_calibration_is_one_page_that_everyone_can_use(opened, axe, found, tmp_path, scheme):
    path = write_page(found, tmp_path)
    page = opened(path=path, drawn=".confusion", color_scheme=scheme)
    assert page.locator(".confusion .right").count() == 2
    assert page.locator(".confusion .wrong").all_inner_texts() == ["1"]
    assert page.locator("svg.mini").count() == 1 + 4  # one tally, and two shares of two organisms
    assert "learned is 0.61 <b>below</b> 0.9" in page.inner_text("main")
    assert "1 of 2 organisms of the kind elicited could not be made" in page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    assert axe(page) == []

"""The evidence in the real browser: each table is drawn, follows the page, and downloads."""

# pyright: reportMissingImports=false

import csv
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from circuitlapse.config.finetune import Finetune
from circuitlapse.records.calibration import released
from circuitlapse.report.pages.page import render_report
from circuitlapse.report.series import checkpoint_details
from circuitlapse.report.series.run_records import read_run
from report_synthetic import write_run
from synthetic_evidence import with_evidence

TABLES = (
    "weights",
    "dynamics",
    "elicitable",
    "training",
    "shortcuts",
)
CHARTS = (
    *(f"chart-{name}" for name in TABLES),
    "overlap-time",
    "overlap-compared",
    "changes-chart",
    "roles-chart",
)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evidence")
    records = with_evidence(read_run(write_run(directory / "run", seeds=(0, 1), steps=32)))
    path = directory / "report.html"
    path.write_text(render_report(records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def grid_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("grid")
    records = read_run(write_run(directory / "run", steps=16))
    tune = Finetune.model_validate(
        {"steps": 16, "save_every": 8, "grid": {"learning_rate": [0.001, 0.01]}}
    )
    names = list(tune.recipes())
    recipes = {
        name: pl.concat(frame.with_columns(recipe=pl.lit(recipe)) for recipe in names)
        for name, frame in records.recipes.items()
    }
    both = pl.lit("not_learning, diverged")
    flags = pl.when(pl.col("recipe") == names[1], pl.col("step") == 16).then(both)
    recipes["training"] = recipes["training"].with_columns(flags=flags.otherwise(pl.lit("")))
    experiment = records.experiment.model_copy(update={"finetune": tune})
    path = directory / "report.html"
    path.write_text(
        render_report(
            replace(
                records,
                experiment=experiment,
                recipe=names[0],
                recipes=recipes,
                labels={names[0]: "formed"},
            )
        ),
        encoding="utf-8",
    )
    return path


def test_every_table_is_drawn(opened, page_path):
    page = opened("step=16&head=2.3", path=page_path)
    for chart in CHARTS:
        assert page.locator(f"#{chart} svg").count(), chart
        assert page.locator(f"#{chart}").is_visible(), chart
    assert page.locator("#chart-weights circle").count() == 2 * 7
    assert page.locator("#overlap-compared .point").count() == 2 * 2 * 3
    assert "overfit" not in page.text_content(
        "#chart-training"
    )  # the first 32 steps had no warning
    assert "90 % of the improvement: everything 96" in page.text_content("#chart-elicitable")
    assert "fine-tuned model" in page.text_content("#chart-shortcuts")


def test_the_evidence_follows_the_slider_and_the_choices(opened, page_path):
    page = opened("step=8", path=page_path)
    marks = "#changes-chart .column-marker", "#roles-chart .column-marker >> nth=0"
    lines = "#overlap-time .marker", "#chart-elicitable .marker >> nth=0"

    def seen():
        return [page.get_attribute(mark, "x") for mark in marks] + [
            page.get_attribute(line, "x1") for line in lines
        ]

    before = seen()
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    assert all(then != now for then, now in zip(before, seen(), strict=True))
    assert "at step 16 (edges: 32)" in page.text_content("#overlap figcaption >> nth=0")
    shown = page.text_content("#overlap-time .panel-title")
    page.select_option("#measure", "spearman")
    assert page.text_content("#overlap-time .panel-title") != shown
    shown = page.inner_html("#chart-dynamics")
    page.select_option("#family", "names")
    assert page.inner_html("#chart-dynamics") != shown
    page.select_option("#seed", "1")
    assert "none of a seed" not in page.text_content("#chart-elicitable")


def test_a_change_is_marked_under_the_curves_and_pins_its_head(opened, page_path):
    page = opened(path=page_path)
    assert page.locator("#timeline .rug line").count() > 3
    assert page.locator("#timeline .epoch").count() == 1
    changes = page.locator("#chart-dynamics .change")
    assert changes.count() == 2 * 24
    changes.last.hover()  # the first may lie under another
    assert "90 % reached at step" in page.inner_text("#tooltip")
    changes.last.click()
    assert page.is_visible("#head-page")
    told = page.inner_text("#head-tables")
    assert "queries from" in told
    assert "90 % of the change is reached at step" in told


def test_the_numbers_of_each_table_download(opened, page_path):
    page = opened(path=page_path)
    names = (
        *TABLES,
        "roles",
        "head changes over time",
        "overlap over time",
        "overlap compared",
    )
    for number, name in enumerate(names):
        if number % 8 == 7:
            page.wait_for_timeout(1200)  # Chromium drops the eleventh of a burst of downloads
        with page.expect_download() as download:
            page.click(f"[aria-label='Download {name} as CSV']")
        rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
        assert rows, name
        assert "finetune_seed" in rows[0], name
    with page.expect_download() as download:
        page.click("[aria-label='Download weights as CSV']")
    row = next(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    assert {"part", "n_parameters", "put_back", "put_back_low", "grafted_high"} <= row.keys()


def test_every_chart_has_its_downloads_and_tables_their_numbers(opened, page_path):
    page = opened("step=16&head=2.3", path=page_path)
    buttons = page.eval_on_selector_all(
        "[data-downloads]",
        "places => places.map(place => [place.dataset.downloads, place.textContent])",
    )
    tables = {"head_changes", "calibration"}
    assert len(buttons) == len(dict(buttons))
    for name, given in buttons:
        assert given == ("CSV" if name in tables else "SVGCSV"), name
    figures = page.locator("figure:visible")
    assert figures.count() == page.locator("figure:visible .downloads:visible").count()


def test_the_calibration_downloads(opened, page_path):
    page = opened("step=16", path=page_path)
    with page.expect_download() as download:
        page.click("[aria-label='Download calibration as CSV']")
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    tallies = [*released().tallies(), released().total()]
    assert [int(row["right"]) for row in rows] == [each.right for each in tallies]
    assert [row["mechanism"] for row in rows] == [each.says for each in tallies]


def test_nothing_is_offered_where_nothing_is_drawn(opened, page_path):
    page = opened("step=16&head=2.3", path=page_path)
    places = "[data-downloads='attention']", "[data-downloads='head_changes']"
    assert all(page.is_visible(place) for place in places)
    page.evaluate("location.hash = 'step=16&counterfactual=s1_to_io'")  # which has no changes
    page.wait_for_selector("[data-downloads='head_changes']", state="hidden")
    assert page.is_hidden("[data-downloads='faithfulness']")
    page.evaluate("location.hash = 'step=16&counterfactual=names'")
    page.wait_for_selector("[data-downloads='head_changes']")
    assert page.is_visible("[data-downloads='faithfulness']")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_the_evidence(opened, axe, page_path, scheme):
    assert axe(opened("step=16&head=2.3", path=page_path, color_scheme=scheme)) == []


@pytest.mark.parametrize("width", [1024, 1440])
def test_the_evidence_fits_the_window(opened, screenshots, page_path, width):
    page = opened("step=16&head=2.3", path=page_path, viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for part in ("#placebo + .wide", "#head-tables", "#now"):  # nothing of them is cut off
        assert page.eval_on_selector(part, "e => e.scrollWidth <= e.clientWidth"), part
    page.wait_for_selector("body:not(.moving)")
    page.screenshot(path=screenshots / f"evidence-{width}.png", full_page=True)


def test_a_head_whose_patterns_are_left_out_offers_none(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_details, "_MOST_WEIGHTS", 0)
    path = tmp_path / "report.html"
    records = read_run(write_run(tmp_path / "run", steps=16))
    path.write_text(render_report(records), encoding="utf-8")
    page = opened("step=16&head=2.3", path=path)
    assert "in the run\u2019s directory" in page.inner_text("#pattern-chart")
    assert page.is_hidden("[data-downloads='attention']")


def test_recipes_are_compared_with_their_flags(opened, grid_path, axe):
    page = opened(path=grid_path)
    panels = page.locator("#recipes-chart .panel")
    assert panels.count() == 2
    assert "formed" in panels.nth(0).text_content()
    assert panels.nth(0).locator("a").count() == 0  # this page's own
    assert panels.nth(1).locator("a").get_attribute("href").endswith(".html")
    assert panels.nth(0).locator(".flag").count() == 0
    assert panels.nth(1).locator(".flag").count() == 2
    named = "not learning from step 16; diverged from step 16"
    assert page.locator("details", has_text=named).count() == 1
    assert axe(page) == []

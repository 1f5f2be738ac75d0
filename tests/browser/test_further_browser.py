"""Evidence tables that no section draws by itself appear all the same."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from circuitlapse.report.pages.page import render_report
from circuitlapse.report.series.run_records import read_run
from report_synthetic import write_run


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("extras")
    records = read_run(write_run(directory / "run", steps=16))
    rows = [
        {
            "base_seed": 0,
            "recipe": "default",
            "finetune_seed": 0,
            "step": 16,
            "group": group,
            "direction": "noising",
            "improvement": value,
            "improvement_low": value - 0.2,
            "improvement_high": value + 0.2,
            "null_min": -0.3,
            "null_max": 0.3,
        }
        for group, value in (("old_heads", 1.5), ("<i>recruited</i>", -0.4))
    ]
    tables = {**records.tables, "novelty": pl.DataFrame(rows)}
    path = directory / "report.html"
    path.write_text(render_report(replace(records, tables=tables)), encoding="utf-8")
    return path


def test_a_further_table_is_drawn_with_its_intervals_and_nulls(opened, page_path):
    page = opened(path=page_path)
    chart = page.locator("#chart-novelty svg")
    assert chart.locator("circle").count() == 2
    assert chart.locator(".whisker").count() == 2
    assert chart.locator(".null").count() == 2
    assert "<i>recruited</i> · noising" in chart.text_content()
    assert "\u22120.40 [\u22120.60, \u22120.20]" in chart.text_content()
    assert page.text_content("#table-novelty") == "Novelty"
    assert page.locator("#evidence details td", has_text="1.50 [1.30, 1.70]").count() == 1
    with page.expect_download() as table:
        page.click("[aria-label='Download novelty as CSV']")
    assert "improvement_high" in Path(table.value.path()).read_text(encoding="utf-8")

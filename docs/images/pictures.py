"""Make the pictures of the README from a run: ``python docs/images/pictures.py runs/demo``.

Needs what ``make test-browser`` installs: Chromium and Playwright's library.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from circuitlapse.report.pages.film import frames, write_gif
from circuitlapse.report.pages.page import build_report
from circuitlapse.report.series.run_records import read_run

STEP = 80
HERE = Path(__file__).parent


def main(run: Path) -> None:
    """Write ``report.png``, the page from its slider to its map, and ``map.gif``."""
    page_file = build_report(run).resolve()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = chromium.new_page(viewport={"width": 1280, "height": 1100})
        page.goto(f"{page_file.as_uri()}#step={STEP}")
        page.locator("#learning").evaluate("section => section.scrollIntoView()")
        page.wait_for_timeout(500)
        bottom = page.locator("#map").bounding_box()
        assert bottom
        height = min(1100, bottom["y"] + bottom["height"])
        page.screenshot(
            path=HERE / "report.png", clip={"x": 0, "y": 0, "width": 1280, "height": height}
        )
        chromium.close()
    write_gif(frames(read_run(run), edges=30), HERE / "map.gif", lambda done, total: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

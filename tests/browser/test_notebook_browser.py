"""The page in the frame that a notebook gets."""

from circuitlapse.report.pages.prompt_over_checkpoints import framed


def test_a_frame_draws_the_page_and_moves_its_slider(opened, report, tmp_path):
    notebook = tmp_path / "notebook.html"
    frame = framed(report.read_text(encoding="utf-8"), 700)
    notebook.write_text(f"<!doctype html><title>notebook</title>{frame}", encoding="utf-8")
    page = opened(path=notebook, drawn="iframe")
    shown = page.frame_locator("iframe")
    shown.locator("#map-new .cell").first.wait_for()
    assert shown.locator("#step-now").text_content() == "32 of 32"
    shown.locator("#slider").press("ArrowLeft")
    assert shown.locator("#step-now").text_content() == "24 of 32"
    page.wait_for_timeout(400)  # time enough to write the address, which a frame may refuse


def test_a_frame_draws_a_page_of_more_than_three_megabytes(opened, report, tmp_path):
    text = report.read_text(encoding="utf-8")
    large = text.replace("</body>", "<!-- a&<" + "padding " * 400_000 + "' --></body>")
    assert len(large) > 3_000_000 > len(text)
    notebook = tmp_path / "large.html"
    frame = framed(large, 700)
    notebook.write_text(f"<!doctype html><title>notebook</title>{frame}", encoding="utf-8")
    page = opened(path=notebook, drawn="iframe")
    shown = page.frame_locator("iframe")
    shown.locator("#map-new .cell").first.wait_for()
    shown.locator("#slider").press("ArrowLeft")
    assert shown.locator("#step-now").text_content() == "24 of 32"
    shown.locator('nav a[href="#method"]').click()
    assert (
        shown.locator("#method").evaluate("each => Math.abs(each.getBoundingClientRect().y)") < 200
    )
    # The page has an origin of its own: the notebook and its storage are out of its reach.
    inside = next(each for each in page.frames if each != page.main_frame)
    assert inside.evaluate("window.origin") == "null"

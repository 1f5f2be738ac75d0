"""The page itself: text, tables, numbers and drawings in one file."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitlapse.config import ONLY
from circuitlapse.records import Store, report_path
from circuitlapse.report import assets
from circuitlapse.report.data import RunRecords, read_run
from circuitlapse.report.numbers import estimate, number, typeset
from circuitlapse.report.payload import payload
from circuitlapse.report.view import view


def build_report(run: Path, made_from: str | None = None, recipe: str = ONLY) -> Path:
    """Write ``RUN/report.html`` from the run's records alone.

    In a run with a grid each recipe has a report of its own, ``RUN/reports/RECIPE.html``.

    The file is replaced whole or not at all. The same records give the same bytes.

    Args:
        run: A finished run directory.
        made_from: Key of the job that makes it, for the run's record of it. By default the key
            that is recorded already, as a report that is built again is made from the same things.
        recipe: Which of a grid's recipes it is about.

    Returns:
        The report's path.

    Raises:
        CircuitlapseError: If a record is missing, unreadable, changed, or of another version.
    """
    page = render_report(read_run(run, recipe=recipe))
    store, name = Store(run), report_path(recipe)
    recorded = store.record(name)
    if made_from is None:
        made_from = recorded.made_from if recorded else ""
    with store.write(name, made_from) as path:
        path.write_bytes(page.encode())
    return store.root / name


def render_report(records: RunRecords) -> str:
    """Return the page's HTML."""
    scripts = [assets.theme_script(), assets.drawing_library(), assets.script()]
    style = assets.style()
    # Only our own files and escaped JSON are marked as safe; everything else is escaped by Jinja2.
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **view(records),
            csp=assets.content_security_policy(scripts, [style]),
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            data=assets.packed(payload(records)),
        )
    )


def environment() -> Environment:
    """Return the templates, in which everything is escaped unless it is marked as our own."""
    found = Environment(
        loader=PackageLoader("circuitlapse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(number=number, estimate=estimate, typeset=typeset)
    return found

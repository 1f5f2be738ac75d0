"""The page itself: text, tables, numbers and drawings in one file."""

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitlapse.report import assets
from circuitlapse.report.data import RunRecords, read_run
from circuitlapse.report.numbers import estimate, number
from circuitlapse.report.payload import payload
from circuitlapse.report.view import view


def build_report(run: Path) -> Path:
    """Write ``RUN/report.html`` from the run's records alone.

    The file is replaced whole or not at all. The same records give the same bytes.

    Args:
        run: A finished run directory.

    Returns:
        The report's path.

    Raises:
        CircuitlapseError: If a record is missing, unreadable, or of another version.
    """
    page = render_report(read_run(run)).encode()
    path = Path(run) / "report.html"
    temporary = path.with_name(f".report.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(page)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render_report(records: RunRecords) -> str:
    """Return the page's HTML."""
    environment = Environment(
        loader=PackageLoader("circuitlapse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, estimate=estimate)
    scripts = [assets.theme_script(), assets.drawing_library(), assets.script()]
    style = assets.style()
    # Only our own files and escaped JSON are marked as safe; everything else is escaped by Jinja2.
    return environment.get_template("report.html.j2").render(
        **view(records),
        csp=assets.content_security_policy(scripts, [style]),
        style=Markup(style),
        scripts=[Markup(text) for text in scripts],
        data=Markup(assets.embeddable_json(payload(records))),
    )

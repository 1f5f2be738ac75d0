"""The page: text, tables, numbers, drawings, style and scripts in one file.

The scripts are plain functions in one scope, joined in a fixed order; a data block holds the
numbers. The Content-Security-Policy names the SHA-256 of each inline block, so that nothing else
can run or load.
"""

import base64
import gzip
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitlapse.config.finetune import ONLY
from circuitlapse.records.layout import report_path
from circuitlapse.records.store import Store
from circuitlapse.report.pages import page
from circuitlapse.report.pages.view import view
from circuitlapse.report.series.grid import estimate, number, typeset
from circuitlapse.report.series.payload import payload
from circuitlapse.report.series.run_records import RunRecords, read_run


def build_report(run: Path, made_from: str | None = None, recipe: str = ONLY) -> Path:
    """Write ``RUN/report.html``, or ``RUN/reports/RECIPE.html`` in a grid, from the run's records.

    Writing is atomic, and the same records give the same bytes. ``made_from`` is the key of the job
    that makes it, by default the recorded one.

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
    scripts = [page.theme_script(), page.drawing_library(), page.script()]
    style = page.style()
    # Only our own files and escaped JSON are marked as safe; everything else is escaped by Jinja2.
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            **view(records),
            csp=page.content_security_policy(scripts, [style]),
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            data=page.packed(payload(records)),
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


# The scripts of each page in the order in which they are joined.
_SCRIPTS = {
    "report": (
        "unpack format state records plot tooltip colours heat download tables curves ranges "
        "timeline map roles head patterns heads lens patching overlap checks "
        "carriers dynamics context training further main"
    ),
    "trial": "unpack format plot tooltip colours download trial",
}


def read_asset(*parts: str) -> str:
    """Return the text of a file that ships with this module."""
    return resources.files("circuitlapse.report").joinpath(*parts).read_text(encoding="utf-8")


def style() -> str:
    """Return the page's style sheet."""
    return read_asset("css", "report.css")


def script(page: str = "report") -> str:
    """Return a page's script, as one function that leaves no global name behind."""
    body = "\n".join(read_asset("js", f"{name}.js") for name in _SCRIPTS[page].split())
    return f'(async () => {{\n"use strict";\n{body}\n}})();\n'


def theme_script() -> str:
    """Return the few lines that must run before the page is painted."""
    return read_asset("js", "theme.js")


def drawing_library() -> str:
    """Return D3, as published."""
    return read_asset("vendor", "d3.min.js")


def content_security_policy(scripts: list[str], styles: list[str]) -> str:
    """Return a policy that allows exactly these inline scripts and styles and nothing else."""

    def sources(texts: list[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        named = (f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        return " ".join(named) or "'none'"

    return (
        f"default-src 'none'; script-src {sources(scripts)}; style-src {sources(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def packed(data: Any) -> str:
    """Return data as compressed JSON in letters that mean nothing in HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

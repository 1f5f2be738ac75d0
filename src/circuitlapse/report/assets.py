"""The page's own style and scripts, and the policy that lets only them run.

The scripts are plain functions in one shared scope, joined in a fixed order; a data block holds
the numbers. The Content-Security-Policy names the SHA-256 of each inline block, so that nothing
else can run or load, whatever a prompt or a file name says.
"""

import base64
import gzip
import hashlib
import json
from importlib import resources
from typing import Any

_SCRIPTS = {
    "report": (
        "unpack", "format", "state", "records", "plot", "tooltip", "colours", "heat", "download",
        "tables", "curves", "ranges", "timeline", "map", "roles", "head", "patterns", "heads",
        "lens", "patching", "overlap", "checks", "groups", "gains", "dynamics", "context",
        "training", "further", "standing", "main",
    ),
    "trial": ("unpack", "format", "plot", "tooltip", "colours", "download", "trial"),
}  # fmt: skip


def read_asset(*parts: str) -> str:
    """Return the text of a file that ships beside this module."""
    return resources.files("circuitlapse.report").joinpath(*parts).read_text(encoding="utf-8")


def style() -> str:
    """Return the page's style sheet."""
    return read_asset("css", "report.css")


def script(page: str = "report") -> str:
    """Return a page's script, as one function that leaves no global name behind."""
    body = "\n".join(read_asset("js", f"{name}.js") for name in _SCRIPTS[page])
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
    """Write data as JSON, compressed, in letters that mean nothing in HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()

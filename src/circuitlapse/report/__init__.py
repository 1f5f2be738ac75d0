"""One self-contained page per run, made from its records alone.

A report is something to send to a colleague and to open in ten years: one HTML file, no network,
no Node, no torch. ``data`` is the only module that reads a run directory, ``payload`` decides what
the drawings get, ``view`` words the text and the tables that read without JavaScript, and ``page``
puts them together.
"""

from circuitlapse.report.data import RunRecords, read_run
from circuitlapse.report.page import build_report, render_report

__all__ = ["RunRecords", "build_report", "read_run", "render_report"]

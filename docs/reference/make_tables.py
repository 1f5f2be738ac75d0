"""Write the sections of tables.md from the analyses: ``python docs/reference/make_tables.py``."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from circuitlapse.analyses.analysis import Analysis
from circuitlapse.analyses.registry import ANALYSES
from circuitlapse.records.columns import TRAINING_RUN

PAGE = Path(__file__).with_name("tables.md")
MARK = "<!-- The rest is written by make_tables.py. -->\n"
_TYPES = {"integer": "whole number", "real": "number", "flag": "true or false"}


def section(analysis: Analysis) -> Iterator[str]:
    """One table: what a row is, then its columns without those that all tables share."""
    yield f"\n## `{analysis.name}`\n\n{textwrap.fill(analysis.about, 119)}\n\n"
    yield "| column | type | meaning |\n|---|---|---|\n"
    for column in analysis.columns:
        if column not in TRAINING_RUN:
            kind = _TYPES.get(column.kind, column.kind)
            yield f"| `{column.name}` | {kind} | {column.meaning} |\n"


def page(text: str) -> str:
    """The page with its sections made anew; what stands above the mark is kept."""
    head, mark, _ = text.partition(MARK)
    return head + mark + "".join(part for each in ANALYSES for part in section(each))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

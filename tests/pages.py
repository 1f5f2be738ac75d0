"""The code of the documents, which the tests run."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def code_of(page: str) -> str:
    """All Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))

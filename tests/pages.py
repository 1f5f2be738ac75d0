"""The pages of the documentation, their code and their links, which the tests run and follow."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: The README and every page, by its path from the root of the repository.
PAGES = [
    path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
]


def code_of(page: str) -> str:
    """All Python blocks of a page of ``docs``, one after the other."""
    return "\n".join(blocks(DOCS / page, "python"))


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}

"""The pages of the documentation, their code and their links, which the tests run and follow."""

import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src/circuitlapse"
#: The README and every page, by its path from the root of the repository.
PAGES = [
    path.relative_to(ROOT).as_posix() for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
]


#: Pages whose Python blocks read a finished run, and those that need none.
WITH_RUN = [
    "README.md",
    "docs/explanation/labels.md",
    "docs/reading-a-report.md",
    "docs/how-to/read-activations.md",
    "docs/how-to/undetermined.md",
    "docs/reference/python.md",
    "docs/reference/tables.md",
    "docs/tutorial.md",
]
WITHOUT_RUN = [
    "docs/contributing.md",
    "docs/how-to/choose-tasks.md",
    "docs/how-to/circuits.md",
    "docs/how-to/controls.md",
    "docs/how-to/own-prompts.md",
    "docs/how-to/patch.md",
    "docs/reference/models.md",
]
# The tests' models have two layers of two heads, and their runs four steps.
_SMALLER = {
    "a9.h9": "a1.h0",
    "a9.h6": "a1.h1",
    "a1.h3": "a0.h0",
    "a2.h0": "a0.h1",
    '"m2"': '"m0"',
    "scores(96,": "scores(4,",
    '"test", 128': '"test", 8',
    '"test", 64': '"test", 8',
}


def run_page(page: str, model: Path, run: Path | None = None) -> dict[str, Any]:
    """Run all Python blocks of a page in order, on a tiny model and a small finished run.

    Returns:
        The names that the page defines.
    """
    code = "\n".join(blocks(ROOT / page, "python"))
    named = dict.fromkeys(('"gpt2"', '"path/or/hub-name"', '"organism:default:3"'), f'"{model}"')
    of_run = {"cl.demo_experiment()": f'"{run}/experiment.toml"', "runs/demo": str(run)}
    for large, small in {**_SMALLER, **named, **of_run}.items():
        code = code.replace(large, small)
    found: dict[str, Any] = {}
    exec(compile(code, page, "exec"), found)
    return found


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def commands(path: Path) -> list[list[str]]:
    """The words of every circuitlapse command of a page, in blocks and in running text.

    ``N`` stands for a number, and what is written to a file is left out.
    """
    text = path.read_text()
    lines = [line for block in blocks(path, "sh") for line in block.splitlines()]
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`(circuitlapse [^`]+)`", outside)
    found = []
    for line in lines:
        if line.startswith("circuitlapse"):
            words = shlex.split(line, comments=True)[1:]
            words = words[: words.index(">")] if ">" in words else words
            found.append(["1" if word == "N" else word for word in words])
    return found

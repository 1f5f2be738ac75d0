"""The trainer's own state, from which an interrupted training resumes.

The trainer writes weights, optimiser, schedule, random numbers and its log. Its state file comes
last, so a directory without a readable one was left by a killed process.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Restart:
    """Where a training keeps its state, and how often.

    Attributes:
        directory: A directory of its own; one state is kept there.
        before: States of this or a later step are not used: checkpoints before it are missing.
        every_seconds: States are written at checkpoints, and no more often than this.
    """

    directory: Path
    before: int
    every_seconds: float = 30.0

    def latest(self) -> Path | None:
        """Return the newest complete state, after removing every other."""
        found = sorted(
            (int(path.name.rpartition("-")[2]), path)
            for path in self.directory.glob("checkpoint-*")
            if re.fullmatch(r"checkpoint-\d+", path.name)
        )
        usable = [path for step, path in found if step < self.before and _complete(path)]
        newest = usable[-1] if usable else None
        for _, path in found:
            if path != newest:
                shutil.rmtree(path, ignore_errors=True)
        return newest

    def clear(self) -> None:
        """Remove the state."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _complete(state: Path) -> bool:
    if not (state / "rng_state.pth").is_file():
        return False
    try:
        json.loads((state / "trainer_state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return True

"""What the verdict's sentences and checks are about, and which rows they can be checked against."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Context:
    """One fine-tune.

    Attributes:
        old: Name of the old task.
        new: Name of the new task.
        corruption: Family under which overlap and fates were measured.
        step: The tuned model's training step.
        seeds: Columns that pick the run: base_seed, recipe and finetune_seed.
        placebo: Name of the placebo in its table.
    """

    old: str
    new: str
    corruption: str
    step: int
    seeds: Mapping[str, int | str]
    placebo: str | None = None

    def where(self, **columns: str | int) -> dict[str, str | int]:
        """Column values that pick rows of this run from a table."""
        return {**self.seeds, **columns}

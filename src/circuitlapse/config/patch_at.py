"""Choice of the checkpoints with activation patching."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator


def _patch_at(value: Any) -> Any:
    """Accept one of two words, or a number of checkpoints."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value in ("every", "ends") or (type(value) is int and value >= 2):
        return value
    raise ValueError("must be `every`, `ends`, or a number of checkpoints, at least 2")


PatchAt = Annotated[Literal["every", "ends"] | int, BeforeValidator(_patch_at)]


def spread(steps: Sequence[int], count: int) -> set[int]:
    """Choose base, last and checkpoints between them, evenly spread on a log scale."""
    base, *left = steps
    chosen = {base}
    for place in range(min(count - 1, len(left))):
        # From the last to the first, so that two checkpoints are the ends.
        wanted = left[-1] * (left[0] / left[-1]) ** (place / max(1, count - 2))
        chosen.add(
            min(
                (step for step in left if step not in chosen),
                key=lambda step: abs(math.log(step / wanted)),
            )
        )
    return chosen

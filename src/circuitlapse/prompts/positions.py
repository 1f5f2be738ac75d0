"""Named token positions, perhaps with a shift."""

import re

from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Int

_SHIFTED = re.compile(r"(?P<name>.+)(?P<shift>[+-]\d+)", re.DOTALL)


def token_positions(pairs: PromptPairs, name: str) -> Int[Tensor, " prompts"]:
    """Return the index of a named position, perhaps with a shift such as ``S+1``, in each prompt.

    Raises:
        CircuitlapseError: If there is none, or the shift leads out of a prompt.
    """
    whole, shift = name, 0
    # A position's own name may end as a shift does, like t-1.
    if name not in pairs.positions and (found := _SHIFTED.fullmatch(name)):
        whole, shift = found["name"], int(found["shift"])
    if whole not in pairs.positions:
        raise CircuitlapseError(
            "there is no such position",
            got=name,
            fix=f"Use one of {', '.join(pairs.positions) or 'none: these pairs name no positions'}"
            ", or one with a shift such as END-1",
        )
    where = pairs.positions[whole] + shift
    outside = ((where < 0) | (where >= pairs.lengths)).nonzero().flatten()
    if len(outside):
        raise CircuitlapseError(
            f"position {name} lies outside its prompt",
            got=f"prompt {int(outside[0])}",
            fix="Use a smaller shift, or leave out the prompts that are too short for it",
        )
    return where

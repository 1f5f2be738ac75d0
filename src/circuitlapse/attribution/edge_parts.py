"""The parts that scores are summed over: even rows, odd rows, and each named position.

Halves of the prompts separate signal from noise. Named positions (the subject, the last token)
localise an edge in prompts of any length. Scores that are linear in the edge's activation divide
into positions. In exact effects and the keys of the QK-fix each position is corrupted alone, and
the parts need not add up.
"""

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.engine.shared_prefix import Suffixes
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.shapes import Bool, Float

ELSEWHERE = "elsewhere"
"""All positions of a prompt without a name."""

Where = tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch reads"]]
"""Some token positions of a batch, among all and among those that need logits."""


def check_positions(pairs: PromptPairs) -> None:
    """Check that scores can be divided by the pairs' named positions.

    Raises:
        CircuitlapseError: If no position has a name, one is called ``elsewhere``, or two names of
            one prompt point to the same token.
    """
    names = list(pairs.positions)
    if not names or ELSEWHERE in names:
        raise CircuitlapseError(
            f"scores by position need named positions, none of them {ELSEWHERE!r}",
            got=", ".join(names) or "none",
            fix="Give PromptPairs.from_tensors its positions: names with one token index per "
            "prompt",
        )
    where = torch.stack([pairs.positions[name].cpu() for name in names])
    for index, name in enumerate(names):
        row, other = (where[:index] == where[index]).T.nonzero().unbind(dim=1)
        if len(row):
            raise CircuitlapseError(
                "two names point to one token, whose scores can only be counted once",
                got=f"{names[int(other[0])]} and {name} in row {int(row[0])}",
                fix="Leave one of the two out of the pairs' positions",
            )


def with_elsewhere(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of all parts of the scores: the named positions and, if any, ``elsewhere``."""
    return (*names, ELSEWHERE) if names else ()


class Parts:
    """The parts of the scores in one batch: even rows, odd rows, and each named position.

    A position before a prompt's first difference is not in the batch, and scores zero.
    """

    def __init__(self, batch: Suffixes, names: tuple[str, ...] = ()) -> None:
        """Find the rows of each half, and each named position in the batch."""
        n_even = int((batch.rows % 2 == 0).sum())
        self.halves = (slice(0, n_even), slice(n_even, None))
        pos, reads = (batch.context.positions(batch.clean.shape[1], at) for at in (False, True))
        positions = [batch.pairs.positions[name][:, None] for name in names]
        self.named: list[Where] = [(pos == each, reads == each) for each in positions]

    def of(
        self, x: Float[Tensor, "some batch pos ..."], at_reads: bool
    ) -> list[Float[Tensor, "some ..."]]:
        """Select each half and named position of ``x``."""
        return [x[:, half] for half in self.halves] + [x[:, at[at_reads]] for at in self.named]

    def with_rest(
        self, sums: Float[Tensor, "parts writers readers"]
    ) -> Float[Tensor, "all_parts writers readers"]:
        """Add the part of all other positions, if any position has a name."""
        if not self.named:
            return sums
        rest = sums[:2].sum(dim=0) - sums[2:].sum(dim=0)
        return torch.cat([sums, rest[None]])

    def alone(self) -> list[Where]:
        """Each named position, and lastly all others, if any has a name."""
        if not self.named:
            return []
        pos, reads = (~torch.stack(masks).any(dim=0) for masks in zip(*self.named, strict=True))
        return [*self.named, (pos, reads)]

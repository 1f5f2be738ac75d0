"""What scores are summed over: the even rows, the odd rows, and each named position of the prompts.

Halves of the prompts tell signal from noise; named positions (roles: the subject, the last token)
tell where an edge carries what it carries, for prompts of any lengths and wordings.
"""

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.prefix import Suffixes
from circuitlapse.shapes import Float, Int
from circuitlapse.tasks.pairs import PromptPairs

ELSEWHERE = "elsewhere"
"""All positions of a prompt that have no name."""


def check_positions(pairs: PromptPairs) -> None:
    """Say why scores cannot be told apart by the pairs' named positions, if they cannot.

    Raises:
        CircuitlapseError: If no position has a name, one is called ``elsewhere``, or two names of
            one prompt point to the same token, so that its scores would belong to both.
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


class Parts:
    """Where in one batch each part's scores are."""

    def __init__(self, batch: Suffixes, names: tuple[str, ...] = ()) -> None:
        """Find the rows of each half, and the rows and columns of each named position.

        A position left of a prompt's first difference has no column: nothing differs there, and it
        scores zero.
        """
        n_even = int((batch.rows % 2 == 0).sum())
        self.halves = (slice(0, n_even), slice(n_even, None))
        self.columns: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]] = []
        self.reads: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]] = []
        for name in names:
            column = batch.pairs.positions[name]
            if batch.context.start is not None:
                column = column - batch.context.start
            rows = (column >= 0).nonzero()[:, 0]
            self.columns.append((rows, column[rows]))
            row, read = (batch.context.reads == column[:, None]).nonzero().unbind(dim=1)
            self.reads.append((row, read))

    def __len__(self) -> int:
        """Two halves and the names."""
        return 2 + len(self.columns)

    def of(
        self, x: Float[Tensor, "some batch pos ..."], at_reads: bool
    ) -> list[Float[Tensor, "some ..."]]:
        """Take each part of ``x``, whose ``pos`` axis is all columns or only the reads."""
        places = self.reads if at_reads else self.columns
        return [x[:, half] for half in self.halves] + [x[:, row, at] for row, at in places]

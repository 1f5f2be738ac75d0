"""What surrounds the columns a forward runs on: what is to their left, where logits are read."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitlapse.shapes import Int


@dataclass(frozen=True)
class Context:
    """Where the logits of each prompt of a batch are read, and what its columns have to their left.

    Attributes:
        reads: Columns at which logits are read: each prompt's last token, and for answers of
            several tokens all but the last of those too.
        start: Position of each prompt's first column; None where all columns are whole prompts.
        past: Keys and values, ``[batch, past, kv_heads, d_head]``, of the positions before, per
            layer; a prompt sees the first ``start`` of them.
    """

    reads: Int[Tensor, "batch reads"]
    start: Int[Tensor, " batch"] | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    _masks: dict[tuple[int, int, bool], Tensor] = field(default_factory=dict)

    def positions(self, width: int, at_reads: bool) -> Int[Tensor, "_ some"]:
        """Positions in the whole prompts of all ``width`` columns, or of the reads."""
        columns = self.reads if at_reads else torch.arange(width, device=self.reads.device)[None]
        return columns if self.start is None else columns + self.start[:, None]

    def mask(self, copies: int, width: int, at_reads: bool, dtype: torch.dtype) -> Tensor:
        """Say which keys each query sees, as 0 and −∞, ``[copies × batch or 1, 1, queries, keys]``.

        Queries stand at all ``width`` columns, or only at the reads. Masks are kept, as all layers
        and many runs need the same.
        """
        key = (copies, width, at_reads)
        if key not in self._masks:
            columns = torch.arange(width, device=self.reads.device)
            if at_reads:
                seen = columns <= self.reads[:, :, None]
            else:
                seen = (columns <= columns[:, None])[None]
            if self.past and self.start is not None:
                positions = torch.arange(self.past[0][0].shape[1], device=self.reads.device)
                before = (positions < self.start[:, None])[:, None]
                if bool(before.all()):
                    before = before[:1]
                rows = max(len(seen), len(before))
                parts = [part.expand(rows, seen.shape[1], -1) for part in (before, seen)]
                seen = torch.cat(parts, dim=-1)
            if len(seen) > 1:
                seen = seen.repeat(copies, 1, 1)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[key] = mask.masked_fill_(~seen, -torch.inf)[:, None]
        return self._masks[key]

    def beyond(self, columns: tuple[tuple[Tensor, Tensor], ...]) -> "Context":
        """The context of the columns behind the first few, whose keys and values are now past.

        A prompt that is read only among those few is read at the first column left, where nothing
        of use stands.

        Args:
            columns: Keys (in place) and values of the first columns, ``[batch, columns, kv_heads,
                d_head]``, per layer.
        """
        first = columns[0][0].shape[1]
        if first == 0:
            return self
        start = torch.zeros_like(self.reads[:, 0]) if self.start is None else self.start
        past = columns
        if self.past:
            # Each prompt's columns follow at once upon what it sees of the past.
            where = start[:, None] + torch.arange(first, device=start.device)
            rows = torch.arange(len(start), device=start.device)[:, None]
            past = tuple(
                (_written(old[0], new[0], rows, where), _written(old[1], new[1], rows, where))
                for old, new in zip(self.past, columns, strict=True)
            )
        return Context((self.reads - first).clamp(min=0), start + first, past)


def _written(past: Tensor, new: Tensor, rows: Tensor, where: Tensor) -> Tensor:
    longer = torch.cat([past, torch.zeros_like(new)], dim=1)
    longer[rows, where] = new
    return longer


def at_reads(x: Tensor, context: Context) -> Tensor:
    """Take the columns where logits are read, ``[batch, pos, …]`` to ``[batch, reads, …]``.

    The batch may be several variants of the context's, one after the other.
    """
    rows = torch.arange(len(x), device=x.device)
    return x[rows[:, None], context.reads.repeat(len(x) // len(context.reads), 1)]

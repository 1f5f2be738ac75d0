"""What surrounds the columns that a forward runs on: where prompts end, and what came before."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitlapse.shapes import Float, Int


@dataclass(frozen=True)
class Context:
    """Where each prompt of a batch ends, and what its columns have to their left.

    Attributes:
        end: Column of each prompt's last token.
        start: Position of each prompt's first column; None where all columns are whole prompts.
        past: Keys and values, ``[batch, past, heads, d_head]``, of the positions before, per
            layer; a prompt sees the first ``start`` of them.
    """

    end: Int[Tensor, " batch"]
    start: Int[Tensor, " batch"] | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    _masks: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def mask(self, copies: int, n_queries: int, width: int, dtype: torch.dtype) -> Tensor:
        """Say which keys each query sees, as 0 and −∞, ``[copies × batch or 1, 1, queries, keys]``.

        A single query per prompt stands at the prompt's end. Masks are kept, as all layers and
        many runs need the same.
        """
        key = (copies, n_queries, width)
        if key not in self._masks:
            columns = torch.arange(width, device=self.end.device)
            if n_queries == width:
                seen = (columns <= columns[:, None])[None]
            else:
                seen = (columns <= self.end[:, None])[:, None]
            if self.past and self.start is not None:
                positions = torch.arange(self.past[0][0].shape[1], device=self.end.device)
                before = (positions < self.start[:, None])[:, None]
                if bool(before.all()):
                    before = before[:1]
                rows = max(len(seen), len(before))
                parts = [part.expand(rows, n_queries, -1) for part in (before, seen)]
                seen = torch.cat(parts, dim=-1)
            if len(seen) > 1:
                seen = seen.repeat(copies, 1, 1)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[key] = mask.masked_fill_(~seen, -torch.inf)[:, None]
        return self._masks[key]


def at_end(x: Float[Tensor, "batch pos *rest"], context: Context) -> Float[Tensor, "batch 1 *rest"]:
    """Take each prompt's last token; the batch may be several variants of the context's."""
    rows = torch.arange(len(x), device=x.device)
    return x[rows, context.end.repeat(len(x) // len(context.end))][:, None]

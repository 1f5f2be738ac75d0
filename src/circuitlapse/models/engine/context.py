"""The context of a forward pass: its cached prefix, its mask, and where its logits are needed."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuitlapse.shapes import Int


@dataclass(frozen=True)
class Context:
    """The cached prefix of a batch, and the token positions at which logits are needed.

    Attributes:
        reads: Token positions at which logits are needed: each prompt's last token and, for answers
            of several tokens, all but the last of these.
        start: Position of each prompt's first token in the batch; None if prompts are whole.
        past: Cached keys and values, ``[batch, past, kv_heads, d_head]``, per layer; a prompt
            attends to the first ``start`` of them.
    """

    reads: Int[Tensor, "batch reads"]
    start: Int[Tensor, " batch"] | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    _masks: dict[tuple[int, int, bool], Tensor] = field(default_factory=dict)

    def positions(self, width: int, at_reads: bool) -> Int[Tensor, "_ some"]:
        """Positions in the whole prompts of all ``width`` tokens, or of the reads."""
        pos = self.reads if at_reads else torch.arange(width, device=self.reads.device)[None]
        return pos if self.start is None else pos + self.start[:, None]

    def mask(self, copies: int, width: int, at_reads: bool, dtype: torch.dtype) -> Tensor:
        """Return the attention mask, 0 or −∞, ``[copies × batch or 1, 1, queries, keys]``.

        The queries are all ``width`` tokens, or only the reads. Masks are cached: all layers need
        the same.
        """
        key = (copies, width, at_reads)
        if key not in self._masks:
            pos = torch.arange(width, device=self.reads.device)
            seen = pos <= self.reads[:, :, None] if at_reads else (pos <= pos[:, None])[None]
            if self.past and self.start is not None:
                past = torch.arange(self.past[0][0].shape[1], device=self.reads.device)
                before = (past < self.start[:, None])[:, None]
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

    def after(self, tokens: tuple[tuple[Tensor, Tensor], ...]) -> "Context":
        """Append the keys and values of the batch's first tokens to the prefix, at least one's.

        A prompt whose logits are needed at these tokens only gets the next one as a dummy.
        """
        first, past = tokens[0][0].shape[1], tokens
        start = torch.zeros_like(self.reads[:, 0]) if self.start is None else self.start
        if self.past:
            # The tokens follow directly on the part of the prefix that their prompt attends to.
            where = start[:, None] + torch.arange(first, device=start.device)
            rows = torch.arange(len(start), device=start.device)[:, None]
            past = tuple(
                (_written(old[0], new[0], rows, where), _written(old[1], new[1], rows, where))
                for old, new in zip(self.past, tokens, strict=True)
            )
        return Context((self.reads - first).clamp(min=0), start + first, past)


def _written(past: Tensor, new: Tensor, rows: Tensor, where: Tensor) -> Tensor:
    longer = torch.cat([past, torch.zeros_like(new)], dim=1)
    longer[rows, where] = new
    return longer


def at_reads(x: Tensor, context: Context) -> Tensor:
    """Select the positions whose logits are needed, ``[batch, pos, …]`` to ``[batch, reads, …]``.

    The batch may hold several variants of the context's batch, one after the other.
    """
    rows = torch.arange(len(x), device=x.device)
    return x[rows[:, None], context.reads.repeat(len(x) // len(context.reads), 1)]

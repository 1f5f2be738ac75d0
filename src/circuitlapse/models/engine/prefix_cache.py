"""Prefix cache: keys and values of shared prompt prefixes.

Under a causal mask, keys and values depend only on the tokens before them, so counterfactuals of
the same prompt share those of its prefix.
"""

from collections.abc import Callable
from threading import Lock

import torch
from torch import Tensor

from circuitlapse.shapes import Int

Past = tuple[tuple[Tensor, Tensor], ...]
"""Keys (normalised and rotated) and values per layer, ``[batch, pos, kv_heads, d_head]``."""

_MOST_BYTES = 128 * 2**20


class PrefixCache:
    """A cache of prefixes by whole prompt, for a model whose weights do not change.

    A full cache takes no more: prompts come repeatedly in the same order, so evicting the oldest
    would never hit.
    """

    def __init__(self) -> None:
        """Create an empty cache."""
        self._bytes, self._lock = 0, Lock()
        # [layers, keys and values, pos, kv_heads, d_head]
        self._kept: dict[bytes, Tensor] = {}

    def of(
        self,
        tokens: Int[Tensor, "batch pos"],
        width: int,
        run: Callable[[Int[Tensor, "batch width"], Past], Past],
    ) -> Past:
        """Return the keys and values of the first ``width`` tokens, at least one.

        ``run`` computes them for given tokens, after a cached prefix that may be empty.
        """
        names = [row.tobytes() for row in tokens.cpu().numpy()]
        rows = [self._kept.get(name) for name in names]
        known = min(0 if row is None else row.shape[2] for row in rows)
        first = [row[:, :, : min(known, width)] for row in rows if row is not None and known]
        # [layers, keys and values, batch, pos, kv_heads, d_head]
        found = torch.stack(first, dim=2) if first else None
        if known < width:
            new = run(tokens[:, :width], _by_layer(found))
            added = torch.stack([torch.stack(pair) for pair in new])
            del new  # with the queries, of which they may be views
            found = added if found is None else torch.cat([found, added], dim=3)
            del added
            with self._lock:
                for row, name in enumerate(names):
                    self._keep(name, found[:, :, row])
        return _by_layer(found)

    def _keep(self, name: bytes, row: Tensor) -> None:
        old = self._kept.get(name)
        more = row.nbytes - (0 if old is None else old.nbytes)
        if 0 < more <= _MOST_BYTES - self._bytes:
            self._bytes += more
            self._kept[name] = row.clone()  # a view would keep the whole batch's memory


def _by_layer(found: Tensor | None) -> Past:
    return () if found is None else tuple((keys, values) for keys, values in found)

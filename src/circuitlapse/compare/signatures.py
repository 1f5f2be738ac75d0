"""What each head does, as numbers that can be compared between heads, checkpoints and models.

A head's signature holds, each between 0 and 1:

- its mean attention between any two named positions of the task (``END>IO``), the key left of the
  query in every prompt;
- ``copying`` and ``suppressing``: how often it writes, or writes against, the name it attends to
  (OV circuit; Wang et al. 2022);
- ``previous``, ``duplicate`` and ``induction``: attention on random tokens that come twice (Olsson
  et al. 2022).
"""

from dataclasses import dataclass

import numpy as np

from circuitlapse.shapes import Float

OWN = ("copying", "suppressing", "previous", "duplicate", "induction")


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures of all heads of one model.

    Attributes:
        heads: Names such as ``a0.h3``, layer by layer.
        features: What the columns are.
        values: One row per head.
    """

    heads: tuple[str, ...]
    features: tuple[str, ...]
    values: Float[np.ndarray, "heads features"]

    def of(self, head: str) -> dict[str, float]:
        """One head's signature by feature."""
        row = self.values[self.heads.index(head)]
        return dict(zip(self.features, row.tolist(), strict=True))

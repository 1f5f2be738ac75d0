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

from circuitlapse.config.experiment import file_label
from circuitlapse.graph import GraphShape
from circuitlapse.records.arrays import Arrays
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


_READ_AS = {
    "copying": "copying",
    "suppressing": "negative_copying",
    "previous": "previous_token",
    "duplicate": "duplicate_token",
    "induction": "induction",
}
_OF_TASK = ("copying", "suppressing")


def signature_of(readings: Arrays, graph: GraphShape, task: str) -> Signatures:
    """Every head's signature on a task, from one checkpoint's readings."""
    label = file_label(task)
    values: dict[str, np.ndarray] = {}
    for name in sorted(readings):
        of, _, rest = name.partition(".attention.")
        if rest and of == label:
            values[rest] = readings[name].mean(axis=-1, dtype=np.float64)
    for feature in OWN:
        name = _READ_AS[feature]
        values[feature] = readings[f"{label}.{name}" if feature in _OF_TASK else name]
    columns = [each.astype(np.float64).flatten() for each in values.values()]
    return Signatures(graph.heads, tuple(values), np.stack(columns, axis=1))

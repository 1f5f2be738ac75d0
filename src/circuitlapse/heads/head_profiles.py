"""Head profiles: what each head does, comparable between heads, checkpoints and models.

Features of a head, each between 0 and 1:

- its mean attention between any two named positions of the task (``END>IO``), the key left of the
  query in every prompt;
- ``copying`` and ``suppressing``: copy score and negative copy score (OV circuit; Wang et al.
  2022);
- ``previous``, ``duplicate`` and ``induction``: attention on repeated random tokens (Olsson et al.
  2022).
"""

from dataclasses import dataclass

import numpy as np

from circuitlapse.config.experiment import file_label
from circuitlapse.graph import GraphShape
from circuitlapse.records.arrays import Arrays
from circuitlapse.shapes import Float

OWN = ("copying", "suppressing", "previous", "duplicate", "induction")


@dataclass(frozen=True, eq=False)
class HeadProfiles:
    """Profiles of all heads of one model; ``heads`` are names such as ``a0.h3``."""

    heads: tuple[str, ...]
    features: tuple[str, ...]
    values: Float[np.ndarray, "heads features"]

    def of(self, head: str) -> dict[str, float]:
        """Return one head's profile by feature."""
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


def head_profiles(readings: Arrays, graph: GraphShape, task: str) -> HeadProfiles:
    """Return every head's profile on a task, from one checkpoint's readings."""
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
    return HeadProfiles(graph.heads, tuple(values), np.stack(columns, axis=1))

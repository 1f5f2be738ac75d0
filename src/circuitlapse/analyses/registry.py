"""All analyses of a run. To add one, write it in a module of this room and list it here."""

from collections.abc import Mapping
from typing import Any

from circuitlapse.analyses.analysis import Analysis
from circuitlapse.analyses.behaviour import BEHAVIOUR, INVARIANCE, PLACEBO, SHORTCUTS
from circuitlapse.analyses.carriers import BITS, CARRIERS, WEIGHTS
from circuitlapse.analyses.circuits import EDGES, FAITHFULNESS, NODES
from circuitlapse.analyses.dynamics import DYNAMICS
from circuitlapse.analyses.fine_tunes import ELICITABLE, TRAINING
from circuitlapse.analyses.head_changes import HEAD_CHANGES
from circuitlapse.analyses.overlap import OVERLAP
from circuitlapse.analyses.readings import PATCHING, READINGS
from circuitlapse.analyses.roles import ROLES

# In the order of the verdict's sentences.
ANALYSES: tuple[Analysis, ...] = (
    BEHAVIOUR,
    PLACEBO,
    SHORTCUTS,
    BITS,
    TRAINING,
    NODES,
    EDGES,
    FAITHFULNESS,
    INVARIANCE,
    OVERLAP,
    HEAD_CHANGES,
    ROLES,
    DYNAMICS,
    CARRIERS,
    WEIGHTS,
    ELICITABLE,
    READINGS,
    PATCHING,
)
BY_NAME: Mapping[str, Analysis] = {each.name: each for each in ANALYSES}
SCHEMAS: Mapping[str, dict[str, Any]] = {each.name: each.schema for each in ANALYSES}

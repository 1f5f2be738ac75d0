"""How a base and its fine-tuned model differ: wiring, function and causes, and the verdict on them.

Overlap says whether the same parts matter, fates and roles what became of each head, grafts,
mediation and patches across models what brought the gain. Each comes with what chance, noise and a
placebo would give. What needs no model is a pure function of arrays, so that it is tested on arrays
whose truth is known.
"""

from circuitlapse.compare.context import Context
from circuitlapse.compare.fates import (
    FATES,
    Fate,
    Fates,
    HeadEffects,
    HeadFate,
    head_fates,
    used_threshold,
)
from circuitlapse.compare.grafts import Grafts, graft_values
from circuitlapse.compare.groups import GROUPS, ParameterGroups, parameter_groups
from circuitlapse.compare.overlap import (
    EdgeImportance,
    NodeImportance,
    Overlap,
    edge_overlaps,
    node_overlaps,
)
from circuitlapse.compare.preconditions import Findings, check_preconditions
from circuitlapse.compare.shares import SUBSETS, Contribution, Shares, gain_shares
from circuitlapse.compare.statements import statements
from circuitlapse.compare.thresholds import USED_FRACTION
from circuitlapse.compare.verdict import build_verdict
from circuitlapse.compare.wording import Tables, worded

__all__ = [
    "FATES",
    "GROUPS",
    "SUBSETS",
    "USED_FRACTION",
    "Context",
    "Contribution",
    "EdgeImportance",
    "Fate",
    "Fates",
    "Findings",
    "Grafts",
    "HeadEffects",
    "HeadFate",
    "NodeImportance",
    "Overlap",
    "ParameterGroups",
    "Shares",
    "Tables",
    "build_verdict",
    "check_preconditions",
    "edge_overlaps",
    "gain_shares",
    "graft_values",
    "head_fates",
    "node_overlaps",
    "parameter_groups",
    "statements",
    "used_threshold",
    "worded",
]

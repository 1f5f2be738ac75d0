"""How much each node and edge matters on a task's pairs: gradient estimates and exact patches.

Each algorithm has its own file with the source of its definition, and a slow literal twin in the
tests.
"""

from circuitlapse.attribution.edges import attribute
from circuitlapse.attribution.exact import project_exact
from circuitlapse.attribution.neuron_effects import neuron_effects
from circuitlapse.attribution.neurons import neuron_scores
from circuitlapse.attribution.patching import node_effects, patch, patch_effects
from circuitlapse.attribution.paths import patch_paths, sweep_paths
from circuitlapse.attribution.scores import Scores

__all__ = [
    "Scores",
    "attribute",
    "neuron_effects",
    "neuron_scores",
    "node_effects",
    "patch",
    "patch_effects",
    "patch_paths",
    "project_exact",
    "sweep_paths",
]

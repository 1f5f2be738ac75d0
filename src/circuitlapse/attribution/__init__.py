"""How much each node and edge matters on a task's pairs: gradient estimates and exact patches.

Each algorithm has its own file with the source of its definition, and a slow literal twin in the
tests.
"""

from circuitlapse.attribution.eap import attribute
from circuitlapse.attribution.patching import node_effects, patch
from circuitlapse.attribution.scores import Scores

__all__ = ["Scores", "attribute", "node_effects", "patch"]

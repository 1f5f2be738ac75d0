"""Models as the analyses see them: one decoder for all families, its graph, and its answers.

A ``transformers`` model is loaded, its weights are read by an adapter into a small functional
decoder whose forward this package owns, and the two are compared. Owning the forward makes restarts
from any layer, inputs per edge and gradients per head cheap; all else stays Hugging Face's.
"""

from circuitlapse.models.behaviour import (
    Behaviour,
    behaviour,
    behaviours,
    corrupt_logit_difference,
    logit_differences,
)
from circuitlapse.models.export import export_transformerlens
from circuitlapse.models.graph import Circuit, Graph
from circuitlapse.models.load import Model, load_model
from circuitlapse.models.quiet import quiet

__all__ = [
    "Behaviour",
    "Circuit",
    "Graph",
    "Model",
    "behaviour",
    "behaviours",
    "corrupt_logit_difference",
    "export_transformerlens",
    "load_model",
    "logit_differences",
    "quiet",
]

"""From scores to circuits, and how much of the model's behaviour a circuit carries by itself."""

from circuitlapse.circuits.evaluate import (
    evaluate_circuit,
    evaluate_circuits,
    faithfulness_curve,
)
from circuitlapse.circuits.export import export_circuit
from circuitlapse.circuits.faithfulness import CircuitEvaluation

__all__ = [
    "CircuitEvaluation",
    "evaluate_circuit",
    "evaluate_circuits",
    "export_circuit",
    "faithfulness_curve",
]

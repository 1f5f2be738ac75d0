"""From scores to circuits, and how much of the model's behaviour a circuit carries by itself."""

from circuitlapse.circuits.completeness import (
    Incompleteness,
    completeness,
    greedy_completeness,
)
from circuitlapse.circuits.curve import cmd, cpr, faithfulness_curve
from circuitlapse.circuits.evaluate import evaluate_circuit, evaluate_circuits
from circuitlapse.circuits.export import export_circuit
from circuitlapse.circuits.faithfulness import CircuitEvaluation
from circuitlapse.circuits.known import KnownHeads, check_heads, pairs_for
from circuitlapse.circuits.minimality import NodeMinimality, minimality
from circuitlapse.circuits.published import IOI_HEADS
from circuitlapse.circuits.removal import random_sets
from circuitlapse.circuits.roles import Attends, Copies, FeedsQueries, Repeats, Role

__all__ = [
    "IOI_HEADS",
    "Attends",
    "CircuitEvaluation",
    "Copies",
    "FeedsQueries",
    "Incompleteness",
    "KnownHeads",
    "NodeMinimality",
    "Repeats",
    "Role",
    "check_heads",
    "cmd",
    "completeness",
    "cpr",
    "evaluate_circuit",
    "evaluate_circuits",
    "export_circuit",
    "faithfulness_curve",
    "greedy_completeness",
    "minimality",
    "pairs_for",
    "random_sets",
]

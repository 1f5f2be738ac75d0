"""A time-lapse of the circuits in a language model while it is fine-tuned.

When fine-tuning gives a model a new ability, was it elicited (the circuit was there), was an old
circuit transformed, or was a new one formed? The names below are the whole public interface; each
is imported when it is first used, so that reading results does not load torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circuitlapse.api import Run, compare_models, load_run, run_experiment
    from circuitlapse.attribution import (
        Scores,
        attribute,
        neuron_effects,
        neuron_scores,
        node_effects,
        patch,
        patch_paths,
        project_exact,
        sweep_paths,
    )
    from circuitlapse.calibration import calibrate
    from circuitlapse.circuits import (
        CircuitEvaluation,
        Incompleteness,
        NodeMinimality,
        cmd,
        completeness,
        cpr,
        evaluate_circuit,
        evaluate_circuits,
        export_circuit,
        faithfulness_curve,
        greedy_completeness,
        minimality,
        random_sets,
    )
    from circuitlapse.config import Experiment, demo_experiment, read_experiment
    from circuitlapse.errors import CircuitlapseError
    from circuitlapse.models import Circuit, Graph, Model, export_transformerlens, load_model
    from circuitlapse.pipeline.survey import survey
    from circuitlapse.reading import (
        DirectAttribution,
        RepeatScores,
        attention_between,
        attention_patterns,
        copying_scores,
        direct_logit_attribution,
        logit_lens,
        matching_scores,
        repeat_scores,
    )
    from circuitlapse.tasks import PromptPairs, Task, get_task, tokenize

__version__ = "0.1.0"

_HOMES = {
    "api": ("Run", "compare_models", "load_run", "run_experiment"),
    "attribution": (
        "Scores",
        "attribute",
        "neuron_effects",
        "neuron_scores",
        "node_effects",
        "patch",
        "patch_paths",
        "project_exact",
        "sweep_paths",
    ),
    "calibration": ("calibrate",),
    "circuits": (
        "CircuitEvaluation",
        "Incompleteness",
        "NodeMinimality",
        "cmd",
        "completeness",
        "cpr",
        "evaluate_circuit",
        "evaluate_circuits",
        "export_circuit",
        "faithfulness_curve",
        "greedy_completeness",
        "minimality",
        "random_sets",
    ),
    "config": ("Experiment", "demo_experiment", "read_experiment"),
    "errors": ("CircuitlapseError",),
    "models": ("Circuit", "Graph", "Model", "export_transformerlens", "load_model"),
    "pipeline.survey": ("survey",),
    "reading": (
        "DirectAttribution",
        "RepeatScores",
        "attention_between",
        "attention_patterns",
        "copying_scores",
        "direct_logit_attribution",
        "logit_lens",
        "matching_scores",
        "repeat_scores",
    ),
    "tasks": ("PromptPairs", "Task", "get_task", "tokenize"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Circuit",
    "CircuitEvaluation",
    "CircuitlapseError",
    "DirectAttribution",
    "Experiment",
    "Graph",
    "Incompleteness",
    "Model",
    "NodeMinimality",
    "PromptPairs",
    "RepeatScores",
    "Run",
    "Scores",
    "Task",
    "attention_between",
    "attention_patterns",
    "attribute",
    "calibrate",
    "cmd",
    "compare_models",
    "completeness",
    "copying_scores",
    "cpr",
    "demo_experiment",
    "direct_logit_attribution",
    "evaluate_circuit",
    "evaluate_circuits",
    "export_circuit",
    "export_transformerlens",
    "faithfulness_curve",
    "get_task",
    "greedy_completeness",
    "load_model",
    "load_run",
    "logit_lens",
    "matching_scores",
    "minimality",
    "neuron_effects",
    "neuron_scores",
    "node_effects",
    "patch",
    "patch_paths",
    "project_exact",
    "random_sets",
    "read_experiment",
    "repeat_scores",
    "run_experiment",
    "survey",
    "sweep_paths",
    "tokenize",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'circuitlapse' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"circuitlapse.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__

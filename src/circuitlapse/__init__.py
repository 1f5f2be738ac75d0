"""A time-lapse of the circuits in a language model while it is fine-tuned.

When fine-tuning gives a model a new ability, was it elicited (the circuit was there), was an old
circuit transformed, or was a new one formed? The names below are the whole public interface. Each
is imported when it is first used, so that reading results does not load torch.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "Circuit": "models.engine.circuit",
    "CircuitEvaluation": "circuits.evaluate",
    "CircuitlapseError": "errors",
    "DirectAttribution": "reading.direct",
    "Experiment": "config.experiment",
    "Graph": "models.engine.circuit",
    "Incompleteness": "circuits.completeness",
    "Model": "models.engine.model",
    "NodeMinimality": "circuits.minimality",
    "PromptPairs": "prompts.pairs",
    "RepeatScores": "reading.repeats",
    "Run": "api.finished_run",
    "Scores": "attribution.scores",
    "Task": "tasks.task",
    "attention_between": "reading.attention",
    "attention_patterns": "reading.attention",
    "attribute": "attribution.edges",
    "calibrate": "calibration.calibrate",
    "cmd": "circuits.curve",
    "compare_models": "api.start",
    "completeness": "circuits.completeness",
    "copying_scores": "reading.heads",
    "cpr": "circuits.curve",
    "demo_experiment": "config.presets",
    "direct_logit_attribution": "reading.direct",
    "evaluate_circuit": "circuits.evaluate",
    "evaluate_circuits": "circuits.evaluate",
    "export_circuit": "circuits.mib",
    "export_transformerlens": "models.files.transformerlens",
    "faithfulness_curve": "circuits.curve",
    "get_task": "tasks.registry",
    "greedy_completeness": "circuits.completeness",
    "load_model": "models.files.load",
    "load_run": "api.finished_run",
    "logit_lens": "reading.lens",
    "matching_scores": "reading.heads",
    "minimality": "circuits.minimality",
    "neuron_effects": "patching.node_effects",
    "neuron_scores": "attribution.neurons",
    "node_effects": "patching.node_effects",
    "patch": "patching.patching",
    "patch_paths": "patching.paths",
    "project_exact": "attribution.exact",
    "random_sets": "circuits.completeness",
    "read_experiment": "config.toml",
    "repeat_scores": "reading.repeats",
    "run_experiment": "api.start",
    "survey": "api.survey",
    "sweep_paths": "patching.paths",
    "tokenize": "tasks.tokenization",
}
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'circuitlapse' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"circuitlapse.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return __all__

"""What an experiment is: one validated file, from which everything else follows."""

from circuitlapse.config.experiment import (
    MIB_FRACTIONS,
    Base,
    Compare,
    Compute,
    Experiment,
    Finetune,
    Measure,
    Tasks,
    file_label,
)
from circuitlapse.config.toml import demo_experiment, read_experiment, to_toml, validated

__all__ = [
    "MIB_FRACTIONS",
    "Base",
    "Compare",
    "Compute",
    "Experiment",
    "Finetune",
    "Measure",
    "Tasks",
    "demo_experiment",
    "file_label",
    "read_experiment",
    "to_toml",
    "validated",
]

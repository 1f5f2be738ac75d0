"""What an experiment is: one validated file, from which everything else follows."""

from circuitlapse.config.base import Base
from circuitlapse.config.controls import Controls, Placebo
from circuitlapse.config.experiment import (
    MIB_FRACTIONS,
    Compare,
    Compute,
    Experiment,
    Measure,
    Tasks,
    file_label,
)
from circuitlapse.config.finetune import ONLY, Arm, Finetune, Grid, Lora, PlaceboKind
from circuitlapse.config.toml import (
    comparison,
    demo_experiment,
    read_experiment,
    to_toml,
    validated,
)

__all__ = [
    "MIB_FRACTIONS",
    "ONLY",
    "Arm",
    "Base",
    "Compare",
    "Compute",
    "Controls",
    "Experiment",
    "Finetune",
    "Grid",
    "Lora",
    "Measure",
    "Placebo",
    "PlaceboKind",
    "Tasks",
    "comparison",
    "demo_experiment",
    "file_label",
    "read_experiment",
    "to_toml",
    "validated",
]

"""Training: the embedded model organism, and fine-tuning with a checkpoint every few steps.

A time-lapse needs the training itself, not only its end: the base is made here when none is
given, and fine-tuning saves what the analyses then look at.
"""

from circuitlapse.training.arguments import check_device, check_names, on_cpu
from circuitlapse.training.finetune import finetune
from circuitlapse.training.organism import (
    Progress,
    gate_figures,
    organism,
    organism_key,
    pretrain,
)
from circuitlapse.training.recipe import RECIPES, Recipe, Stage, get_recipe
from circuitlapse.training.restart import Restart
from circuitlapse.training.tokenizer import build_tokenizer
from circuitlapse.training.traps import flagged
from circuitlapse.training.watch import BlownUpError, Figures, Watched

__all__ = [
    "RECIPES",
    "BlownUpError",
    "Figures",
    "Progress",
    "Recipe",
    "Restart",
    "Stage",
    "Watched",
    "build_tokenizer",
    "check_device",
    "check_names",
    "finetune",
    "flagged",
    "gate_figures",
    "get_recipe",
    "on_cpu",
    "organism",
    "organism_key",
    "pretrain",
]

"""Organisms whose truth is planted, to hold a verdict against.

A verdict that is right on models whose answer is not known proves nothing. Here the answer is put
in, and tested for, before any verdict is asked.
"""

from circuitlapse.calibration.admission import BARS, KINDS, Bar, refusal
from circuitlapse.calibration.calibrate import calibrate
from circuitlapse.calibration.judge import Judging, judge
from circuitlapse.calibration.planted import ALL_WEIGHTS, Planted, plant, planted_recipe
from circuitlapse.calibration.tally import clopper_pearson
from circuitlapse.training.nursery import Planting

__all__ = [
    "ALL_WEIGHTS",
    "BARS",
    "KINDS",
    "Bar",
    "Judging",
    "Planted",
    "Planting",
    "calibrate",
    "clopper_pearson",
    "judge",
    "plant",
    "planted_recipe",
    "refusal",
]

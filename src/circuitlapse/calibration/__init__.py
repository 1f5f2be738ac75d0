"""Organisms whose truth is planted, to hold a verdict against.

A verdict that is right on models whose answer is not known proves nothing. Here the answer is put
in, and tested for, before any verdict is asked.
"""

from circuitlapse.calibration.admission import BARS, KINDS, Bar, refusal
from circuitlapse.calibration.nursery import Planting
from circuitlapse.calibration.planted import Planted, plant, planted_recipe

__all__ = [
    "BARS",
    "KINDS",
    "Bar",
    "Planted",
    "Planting",
    "plant",
    "planted_recipe",
    "refusal",
]

"""What a calibration found: ``calibration.json``, and its table.

Organisms whose answer was planted are judged by the same rule as any run. How often the rule names
what was planted says how far its answers may be trusted, on models like these.
"""

from importlib import resources
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from circuitlapse.records.documents import Label, Precondition
from circuitlapse.stats.intervals import Estimate

CAUSAL = ("formed", "transformed", "elicited")
"""Kinds of organism in which the ability has a planted cause; the fourth, ``nothing``, has none."""

LABEL_OF: dict[str, Label] = {
    "formed": "formed",
    "transformed": "transformed",
    "elicited": "elicited",
    "nothing": "no_gain",
}
"""The label that is right for each kind."""

Outcome = Literal["right", "wrong", "undetermined"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CalibratedOrganism(_Document):
    """One organism: how it was planted, and what was said about it.

    Attributes:
        kind: ``formed``, ``transformed``, ``elicited`` or ``nothing``.
        seed: Of pretraining and fine-tuning.
        variant: Which way of planting it: the placebo of ``nothing``; ``all_weights`` where a lock
            was trained with all weights; else empty.
        scored: Whether it counts: validated, and no stress case.
        why_rejected: Why it was rejected, with the figure that failed; empty where it was.
        figures: What the validation checks measured, by name.
        trained: The heads that alone were trained, where that is how it was planted.
        label: The answer; null where the organism was rejected.
        outcome: Whether the label is the planted one. ``mixed`` is as wrong as another cause.
        reason: Why this label.
        improvement: G, in logits.
        shares: Share of G per cause; null where G is not clear of zero.
        checks: What the label needs and whether it holds.
        seconds: For planting and judging it, without its base.
    """

    kind: str
    seed: int
    variant: str = ""
    scored: bool
    why_rejected: str
    figures: dict[str, float]
    trained: list[str]
    label: Label | None
    outcome: Outcome | None
    reason: str
    improvement: Estimate | None
    shares: dict[str, Estimate] | None
    checks: list[Precondition]
    seconds: float


class Tally(_Document):
    """How often the label was right.

    Attributes:
        kind: Of these organisms; ``all causes`` for formed, transformed and elicited together.
        n: How many were scored.
        right: How many had the planted label, with the exact 95 % interval of their share.
        right_share: The same over ``n``.
        wrong: How many had another one.
        wrong_share: The same over ``n``.
        undetermined: How many had none.
    """

    kind: str
    n: int
    right: int
    right_share: Estimate
    wrong: int
    wrong_share: Estimate
    undetermined: int


class Calibration(_Document):
    """A verdict held against planted truths.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        circuitlapse: Version of this package.
        command: How to make it again.
        finished: ISO 8601 time (UTC).
        seconds: How long everything took that was not kept from before.
        n: Organisms of each kind that were wanted.
        seed_from: The first seed; rejected candidates are replaced by the next ones.
        settings: How organisms were planted and judged, by name.
        thresholds: The rule's thresholds, by name.
        organisms: All candidates, rejected ones and stress cases included.
        confusion: How often each label was given, by planted kind; scored ones only.
        tallies: Per kind, and for the three causes together.
        missing: How many organisms of each kind could not be had; empty where none is missing.
    """

    schema_version: Literal[1] = 1
    circuitlapse: str
    command: str
    finished: str
    seconds: float
    n: int
    seed_from: int
    settings: dict[str, dict[str, str | int | float]]
    thresholds: dict[str, float]
    organisms: list[CalibratedOrganism]
    confusion: dict[str, dict[str, int]]
    tallies: list[Tally]
    missing: dict[str, int]


def released() -> Calibration:
    """The calibration of this version's rule; docs/results/calibration.md describes it.

    It is the ``calibration.json`` that its own ``command`` wrote.
    """
    found = resources.files("circuitlapse.records").joinpath("calibration.json")
    return Calibration.model_validate_json(found.read_text(encoding="utf-8"))


# One row per organism and cause: `calibration.parquet`. share is null where G is not clear of zero.
CALIBRATION_COLUMNS: dict[str, type[pl.DataType]] = {
    "kind": pl.String,
    "seed": pl.Int64,
    "variant": pl.String,
    "scored": pl.Boolean,
    "why_rejected": pl.String,
    "label": pl.String,
    "outcome": pl.String,
    "improvement": pl.Float64,
    "cause": pl.String,
    "share": pl.Float64,
    "share_low": pl.Float64,
    "share_high": pl.Float64,
}


def calibration_table(found: Calibration) -> pl.DataFrame:
    """Lay out the organisms' shares, one row per organism and cause."""
    rows = []
    for each in found.organisms:
        about = {
            key: getattr(each, key)
            for key in ("kind", "seed", "variant", "scored", "why_rejected", "label", "outcome")
        }
        about["improvement"] = None if each.improvement is None else each.improvement.value
        for cause, share in (each.shares or {"": None}).items():
            ends = {"share": None, "share_low": None, "share_high": None}
            if share is not None:
                ends = share.columns("share")
            rows.append({**about, "cause": cause, **ends})
    return pl.DataFrame(rows, schema=CALIBRATION_COLUMNS)

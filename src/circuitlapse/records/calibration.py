"""The result of a calibration: ``calibration.json``, and its table.

Organisms with known ground truth are judged by the same rule as any run. How often the label is
right says how far labels may be trusted, on models like these.
"""

from importlib import resources
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from circuitlapse.records.documents import Label, Precondition
from circuitlapse.stats.intervals import Estimate

CAUSAL = ("formed", "transformed", "elicited")
"""Kinds of organism with a cause; the fourth, ``nothing``, has none."""

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
    """One organism: its ground truth and its label.

    Attributes:
        kind: ``formed``, ``transformed``, ``elicited`` or ``nothing``.
        seed: Seed of pretraining and fine-tuning.
        variant: The placebo of ``nothing``; ``all_weights`` if the ability was suppressed with all
            weights; else empty.
        scored: Whether it counts: validated, and no stress case.
        why_rejected: Why it was not validated, with the figure that failed; else empty.
        figures: Figures of the validation checks, by name.
        trained: The heads that were trained alone, if any.
        label: The label; null if the organism was rejected.
        outcome: Whether the label is right. ``mixed`` is as wrong as another cause.
        reason: Why this label.
        improvement: G, in logits.
        shares: Share of G per cause; null if the interval of G includes zero.
        checks: What the label requires and whether it is met.
        seconds: Time for making and judging it, without its base.
    """

    kind: str
    seed: int
    variant: str = ""
    scored: bool
    why_rejected: str
    figures: dict[str, float] = {}
    trained: list[str] = []
    label: Label | None = None
    outcome: Outcome | None = None
    reason: str = ""
    improvement: Estimate | None = None
    shares: dict[str, Estimate] | None = None
    checks: list[Precondition] = []
    seconds: float


class Tally(_Document):
    """How often the label was right.

    Attributes:
        kind: Kind of organism; ``all causes`` for formed, transformed and elicited together.
        n: Number of scored organisms.
        right: Number with the right label.
        right_share: Their share of ``n``, with its exact 95 % interval.
        wrong: Number with a wrong label.
        wrong_share: Their share of ``n``, with its exact 95 % interval.
        undetermined: Number with the label ``undetermined``.
    """

    kind: str
    n: int
    right: int
    right_share: Estimate
    wrong: int
    wrong_share: Estimate
    undetermined: int


class Calibration(_Document):
    """The verdict scored on organisms with known ground truth.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        circuitlapse: Version of this package.
        command: Command that makes it again.
        finished: ISO 8601 time (UTC).
        seconds: Time of this call; less if a calibration was resumed.
        n: Requested number of organisms of each kind.
        seed_from: First seed; rejected candidates are replaced by the next ones.
        settings: How organisms were made and judged, by name.
        thresholds: The rule's thresholds, by name.
        organisms: All candidates, rejected ones and stress cases included.
        confusion: How often each label was given, by kind; scored organisms only.
        tallies: Per kind, and for the three causes together.
        missing: Number of organisms of each kind that are missing; complete kinds are left out.
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
    """Return the calibration of this version's rule; docs/results/calibration.md describes it."""
    found = resources.files("circuitlapse.records").joinpath("calibration.json")
    return Calibration.model_validate_json(found.read_text(encoding="utf-8"))


# `calibration.parquet`: one row per organism and cause. share is null if G may be zero.
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

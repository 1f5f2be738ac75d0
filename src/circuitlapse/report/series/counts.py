"""Confusion matrix of labels and ground truth, for the calibration's page and the report."""

from typing import Any, get_args

from circuitlapse.records.calibration import LABEL_OF, Calibration
from circuitlapse.records.documents import Label
from circuitlapse.stats.intervals import Estimate

_WIDTH = 130.0


def counts(found: Calibration) -> dict[str, Any]:
    """Return labels by ground truth and exact intervals, for the template."""
    return {
        "confusion": confusion_rows(found),
        "labels": get_args(Label),
        "tallies": [(tally, mark(tally.right_share, 0.0, 1.0)) for tally in found.tallies],
        "width": _WIDTH,
    }


def confusion_rows(found: Calibration) -> list[dict[str, Any]]:
    """Count each label by ground truth, one row per kind.

    ``cells`` has for each label the count, whether it is correct or wrong, and its share of the
    row. `undetermined` is not wrong.
    """
    rows = []
    for kind, counts in found.confusion.items():
        total = sum(counts.values())
        rows.append(
            {
                "kind": kind,
                "cells": [
                    {
                        "count": counts.get(label, 0),
                        "right": label == LABEL_OF[kind],
                        "wrong": label in counts and label not in (LABEL_OF[kind], "undetermined"),
                        "share": counts.get(label, 0) / total if total else 0.0,
                    }
                    for label in get_args(Label)
                ],
            }
        )
    return rows


def count_rows(found: Calibration) -> list[dict[str, Any]]:
    """Return the same counts as table rows."""
    rows = []
    for tally in found.tallies:
        said = found.confusion.get(tally.kind)
        rows.append(
            {
                "planted": tally.kind,
                "n": tally.n,
                "right": tally.right,
                "right_share": _triple(tally.right_share),
                "wrong": tally.wrong,
                "wrong_share": _triple(tally.wrong_share),
                "undetermined": tally.undetermined,
                **(
                    {f"said_{label}": said.get(label, 0) for label in get_args(Label)}
                    if said
                    else {}
                ),
            }
        )
    return rows


def _triple(share: Estimate) -> list[float]:
    return [share.value, share.low, share.high]


def mark(share: Estimate, low: float, high: float) -> dict[str, Any]:
    """Place an estimate and its interval on a scale from ``low`` to ``high``."""
    ends = {name: place(getattr(share, name), low, high) for name in ("value", "low", "high")}
    return {"estimate": share, **ends}


def place(value: float, low: float, high: float) -> float:
    """Place a value on the scale, in SVG units."""
    return round(4 + (_WIDTH - 8) * (value - low) / (high - low), 1)

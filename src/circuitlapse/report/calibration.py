"""A calibration as one page, made as the report is, without scripts."""

from typing import Any, get_args

from markupsafe import Markup

from circuitlapse.records.calibration import LABEL_OF, CalibratedOrganism, Calibration
from circuitlapse.records.documents import Estimate, Label
from circuitlapse.report import assets
from circuitlapse.report.page import environment

_WIDTH = 130.0


def render_calibration(found: Calibration) -> str:
    """Return the page's HTML: self-contained, and nothing in it can run or load anything."""
    style = assets.style()
    scored = [each for each in found.organisms if each.scored]
    low, high = _domain(found.organisms)
    return (
        environment()
        .get_template("calibration.html.j2")
        .render(
            found=found,
            confusion=confusion_rows(found),
            labels=get_args(Label),
            causes=list(dict.fromkeys(c for each in found.organisms for c in each.shares or {})),
            tallies=[(tally, _mark(tally.right_share, 0.0, 1.0)) for tally in found.tallies],
            scored=[_organism(each, low, high) for each in scored],
            rest=[_organism(each, low, high) for each in found.organisms if not each.scored],
            width=_WIDTH,
            zero=_place(0.0, low, high),
            one=_place(1.0, low, high),
            csp=assets.content_security_policy([], [style]),
            style=Markup(style),
        )
    )


def confusion_rows(found: Calibration) -> list[dict[str, Any]]:
    """Lay out how often each label was given, by what was planted: one row for each kind.

    ``cells`` has for each label the count, whether it is the right one, and its share of the row.
    """
    rows = []
    for kind, counts in found.confusion.items():
        total = sum(counts.values())
        rows.append({
            "kind": kind,
            "cells": [
                {
                    "count": counts.get(label, 0), "right": label == LABEL_OF[kind],
                    "share": counts.get(label, 0) / total if total else 0.0,
                }
                for label in get_args(Label)
            ],
        })  # fmt: skip
    return rows


def _domain(organisms: list[CalibratedOrganism]) -> tuple[float, float]:
    """One scale for the shares of all organisms; it holds 0 and 1."""
    given = [share for each in organisms for share in (each.shares or {}).values()]
    low = min([0.0, *(share.low for share in given)])
    return low, max([1.0, *(share.high for share in given)])


def _organism(each: CalibratedOrganism, low: float, high: float) -> dict[str, Any]:
    shares = {cause: _mark(share, low, high) for cause, share in (each.shares or {}).items()}
    return {"organism": each, "shares": shares}


def _mark(share: Estimate, low: float, high: float) -> dict[str, Any]:
    ends = {name: _place(getattr(share, name), low, high) for name in ("value", "low", "high")}
    return {"estimate": share, **ends}


def _place(value: float, low: float, high: float) -> float:
    return round(4 + (_WIDTH - 8) * (value - low) / (high - low), 1)

"""Counts of right and wrong labels, for the calibration's page and the report."""

from typing import Any

from circuitlapse.records.calibration import OUTCOMES, Calibration, Outcome, Tally
from circuitlapse.stats.intervals import Estimate

_WIDTH = 130.0


def counts(found: Calibration) -> dict[str, Any]:
    """Return outcomes by mechanism with exact intervals, for the template."""
    return {
        "tallies": [
            {
                "tally": each,
                "row": row,
                "without": without,
                "mark": None if share is None else mark(share, 0.0, 1.0),
            }
            for each, without, row in _paired(found)
            for share in [each.share("right")]
        ],
        "scored": len(found.candidates),
        "planned": found.planned,
        "width": _WIDTH,
    }


def _paired(found: Calibration) -> list[tuple[Tally, Tally, Any]]:
    """Counts with bits_ratio, without it, and the planned row; the total has no row."""
    with_bits = [*found.tallies(), found.total()]
    without = [*found.tallies(with_bits=False), found.total(with_bits=False)]
    return list(zip(with_bits, without, [*found.rows, None], strict=True))


def count_rows(found: Calibration) -> list[dict[str, Any]]:
    """Return the same counts as table rows."""
    return [
        {
            "mechanism": each.says,
            "truth": row.truth if row else "",
            "planned": each.planned,
            "refused": each.refused,
            **{outcome: getattr(each, outcome) for outcome in OUTCOMES},
            "right_share": _triple(each, "right"),
            "wrong_share": _triple(each, "wrong"),
            **{f"{outcome}_without_bits": getattr(without, outcome) for outcome in OUTCOMES},
        }
        for each, without, row in _paired(found)
    ]


def _triple(found: Tally, outcome: Outcome) -> list[float] | None:
    share = found.share(outcome)
    return None if share is None else [share.value, share.low, share.high]


def mark(share: Estimate, low: float, high: float) -> dict[str, Any]:
    """Place an estimate and its interval on a scale from ``low`` to ``high``."""
    ends = {name: place(getattr(share, name), low, high) for name in ("value", "low", "high")}
    return {"estimate": share, **ends}


def place(value: float, low: float, high: float) -> float:
    """Place a value on the scale, in SVG units."""
    return round(4 + (_WIDTH - 8) * (value - low) / (high - low), 1)

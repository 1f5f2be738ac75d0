"""The one bar of the verdict: each cause's share of the gain, with its interval."""

from typing import Any

from circuitlapse.records.documents import Estimate, Verdict
from circuitlapse.report.names import CAUSES

_WIDTH, _BAR, _ROW, _TOP = 1000.0, 30.0, 9.0, 4.0


def share_bar(verdict: Verdict) -> dict[str, Any] | None:
    """Lay out the bar in SVG units; None where the verdict gives no share.

    Positive shares are stacked to the right of zero and negative ones to its left. Each interval
    is drawn below the bar, shifted by what is stacked before its cause, so that a cause's line
    surrounds the end of its own segment.
    """
    given = [(name, verdict.shares[name]) for name in CAUSES if verdict.shares.get(name)]
    shares: list[tuple[str, Estimate]] = [(name, share) for name, share in given if share]
    if not shares:
        return None
    placed: list[tuple[str, Estimate, float]] = []
    right = left = 0.0
    for name, share in shares:
        if share.value >= 0:
            placed.append((name, share, right))
            right += share.value
        else:
            placed.append((name, share, left))
            left += share.value
    low = min(0.0, *(start + share.low for _, share, start in placed))
    high = max(1.0, *(start + share.high for _, share, start in placed))
    margin = 0.015 * (high - low)
    low, high = low - margin * (low < 0), high + margin

    def x(value: float) -> float:
        return round((value - low) / (high - low) * _WIDTH, 2)

    segments: list[dict[str, Any]] = []
    for row, (name, share, start) in enumerate(placed):
        ends = sorted((x(start), x(start + share.value)))
        segments.append({
            "cause": name, "x": ends[0], "width": round(ends[1] - ends[0], 2),
            "end": x(start + share.value), "low": x(start + share.low),
            "high": x(start + share.high), "y": _TOP + _BAR + 10 + row * _ROW,
        })  # fmt: skip
    bottom = _TOP + _BAR + 10 + len(placed) * _ROW
    quarters = [tick / 4 for tick in range(-8, 13) if low <= tick / 4 <= high]
    return {
        "segments": segments, "top": _TOP, "bar": _BAR, "bottom": bottom, "height": bottom + 20,
        "ticks": [(x(tick), f"{tick:g}") for tick in quarters],
    }  # fmt: skip

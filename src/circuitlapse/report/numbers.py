"""How numbers are written, in the text and in the tables."""

import math
import re
from typing import Any

from circuitlapse.records.documents import Estimate

_NULL = "\u2013"
_MINUS = re.compile(r"(?<![\w.-])-(?=[\d.])")


def number(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed count of decimals, a real minus sign, and a dash for null."""
    if value is None or not math.isfinite(value):
        return _NULL
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\u2212")


def estimate(value: Estimate | None) -> str:
    """Write a value with its interval: ``0.42 [0.35, 0.49]``."""
    if value is None:
        return _NULL
    return f"{number(value.value)} [{number(value.low)}, {number(value.high)}]"


def interval_at(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Write the columns ``name``, ``name_low`` and ``name_high`` of a row as an estimate."""
    if row[name] is None:
        return _NULL
    text = number(row[name], digits)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return text if low is None else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def typeset(text: str) -> str:
    """Give a sentence with numbers real minus signs, and keep each number and its % on one line."""
    return _MINUS.sub("\u2212", text).replace(" %", "\u00a0%")


def short(value: float | None, digits: int = 4) -> float | None:
    """Keep a few significant digits, by default more than a drawing shows; null if not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")

"""The colours of effects: one diverging ramp, for light and dark screens.

It is neutral at zero, brown-orange for negative effects
and blue for positive ones. Both ends differ in lightness from the middle, so the map is readable in
grey and for colour-blind readers.
"""

import math
from typing import Any

STEPS = 100  # entries on either side of zero

_STOPS = {
    "light": "#7f3b08 #b35806 #e08214 #fdb863 #fee0b6 #f4f4f2 "
    "#d1e5f0 #92c5de #4393c3 #2166ac #053061",
    "dark": "#ffe0b0 #fdb863 #e08a2c #a8641f #5c4023 #2a2d31 "
    "#24465f #2a70a3 #4a9bd0 #86c4ec #d3ecff",
}


def ramp(theme: str) -> list[str]:
    """Return the ``2 * STEPS + 1`` colours from most negative to most positive."""
    stops = [tuple(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in _STOPS[theme].split()]
    found = []
    for step in range(2 * STEPS + 1):
        place = step / (2 * STEPS) * (len(stops) - 1)
        index = min(int(place), len(stops) - 2)
        mixed = (
            round(low + (high - low) * (place - index))
            for low, high in zip(stops[index], stops[index + 1], strict=True)
        )
        found.append("#" + "".join(f"{part:02x}" for part in mixed))
    return found


def signed_root(effect: float, largest: float) -> float:
    """Return an effect's place on the scale from -1 to 1, which ends at ``largest``.

    The signed square root keeps small effects visible.
    """
    return math.copysign(math.sqrt(min(1.0, abs(effect) / largest)), effect)


def place(effect: float, largest: float) -> int:
    """Return an effect's index in the ramp."""
    return STEPS + round(signed_root(effect, largest) * STEPS)


def both_themes() -> dict[str, Any]:
    """Return the ramp and the text colours on it for the scripts, by theme."""
    ramps = {theme: ramp(theme) for theme in _STOPS}
    inks = {theme: [ink(colour) for colour in colours] for theme, colours in ramps.items()}
    return {"steps": STEPS, "ramp": ramps, "ink": inks}


def ink(colour: str) -> str:
    """Return the text colour with the higher contrast on a colour (WCAG 2, relative luminance)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#15171a" if luminance > 0.198 else "#ffffff"

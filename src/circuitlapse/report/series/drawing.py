"""One circuit map as SVG: its constant parts, and one frame.

The SVG is built as a tree, so text from a run can never become markup.
"""

from typing import Any
from xml.etree import ElementTree

from circuitlapse.report.series.colours import ink, ramp, signed_root
from circuitlapse.report.series.grid import number
from circuitlapse.report.series.map_layout import WIDEST, Layout
from circuitlapse.report.series.marks import KINDS, Marks

INK, MUTED, RULE, PAPER = "#1b1d20", "#5a6169", "#dddcd6", "#fffefb"
ROLES = {"old": "#56616d", "new": "#b0206f", "difference": INK}
FOR, AGAINST = "#2166ac", "#b35806"
LINES = (INK, MUTED, RULE, *ROLES.values(), FOR, AGAINST)  # every colour that is no effect's
EFFECT_ENDS = ("works against the answer", "needed for the answer (logits)")
_SCALES = {
    "legend": ("largest", EFFECT_ENDS),
    "patching-legend": ("largest", EFFECT_ENDS),
    "lens-legend": ("largest_reading", ("against the answer", "for the answer (logits)")),
}
Number = float | int


def map_titles(tasks: list[dict[str, Any]]) -> dict[str, str]:
    """Return the title of each map."""
    titles = {task["role"]: f"{task['role'].capitalize()} task: {task['title']}" for task in tasks}
    return {**titles, "difference": "Difference: new \u2212 old"}


def drawings(data: dict[str, Any], layout: Layout) -> dict[str, str]:
    """Return each map without a frame, and the keys, as SVG text for the page."""
    found = {}
    for kind in KINDS:
        title = map_titles(data["tasks"])[kind]
        svg = _svg(
            layout.width,
            layout.height,
            "map",
            "group",
            f"{title}: heads by layer. Arrow keys move, Enter pins.",
        )
        draw_map(svg, kind, data, layout)
        found[kind] = ElementTree.tostring(svg, encoding="unicode")
    largest = data["edges"]["largest"]
    label = f"Width of an edge in proportion to its score, up to {largest:.2g} logits"
    key = _svg(250, 46, "edge-widths", "img", label)
    edge_key(key, 8, 4, largest)
    found["edge-key"] = ElementTree.tostring(key, encoding="unicode")
    for name, (largest, ends) in _SCALES.items():
        end = data[largest]
        label = f"Colour scale from {number(-end)} to {number(end)} logits, neutral at zero"
        key = _svg(370, 46, "colour-key", "img", label)
        colour_key(key, 22, 4, 336, end, ends)
        found[name] = ElementTree.tostring(key, encoding="unicode")
    return found


def draw_map(parent: ElementTree.Element, kind: str, data: dict[str, Any], layout: Layout) -> None:
    """Draw the parts of one map that all frames share."""
    left = layout.boxes["logits"][0]
    text(
        parent,
        left,
        14,
        map_titles(data["tasks"])[kind],
        fill=ROLES[kind],
        weight="600",
        size=12.5,
        kind=f"map-title text-{kind}",
    )
    for layer, y in enumerate(layout.rows):
        text(parent, left - 7, y + 4, f"L{layer}", anchor="end", fill=MUTED)
    for head, x in enumerate(layout.columns):
        if head % (4 if len(layout.columns) > 16 else 1) == 0:
            name = "H0" if head == 0 else str(head)
            text(parent, x, layout.height - 5, name, anchor="middle", fill=MUTED)
    _box(parent, layout.boxes["logits"], "logits", 9, "end-bar")
    for name, box in layout.positions[kind].items():
        _box(parent, box, name, 9.5, "chip")
    add(parent, "g", class_="edges", fill="none", opacity=0.85)
    for node in data["nodes"]:
        box, bar = layout.boxes[node["id"]], node["head"] < 0
        size = 9 if bar else min(14, round(0.62 * min(box[2:])))
        _box(parent, box, "", size, "cell bar" if bar else "cell", "sign", "500" if bar else "600")
    add(parent, "g", class_="edges above", fill="none", opacity=0.85)
    text(
        parent,
        layout.width / 2,
        layout.height / 2,
        "",
        anchor="middle",
        fill=MUTED,
        size=12.5,
        kind="nothing",
    )


def show_frame(
    parent: ElementTree.Element, marks: Marks, edges: list[tuple[int, float]], data: dict[str, Any]
) -> None:
    """Fill a frame into the result of :func:`draw_map`."""
    named: dict[str, list[ElementTree.Element]] = {}
    for element in parent:
        named.setdefault(element.get("class", "").partition(" ")[0], []).append(element)
    for group, place, words in zip(named["cell"], marks.cells, marks.texts, strict=True):
        _colour(group, place, words)
    for group, place in zip(named.get("chip", []), marks.positions, strict=True):
        _colour(group, place)
        if place is None:
            group.set("visibility", "hidden")
    for edge, score in edges:
        add(
            named["edges"][0],
            "path",
            d=data["edges"]["list"][edge][3],
            stroke=AGAINST if score < 0 else FOR,
            stroke_width=round(abs(score) * data["edges"]["width"], 2),
        )
    named["nothing"][0].text = marks.nothing


def colour_key(
    parent: ElementTree.Element,
    left: Number,
    top: Number,
    width: Number,
    largest: float,
    ends: tuple[str, str],
) -> None:
    """Draw the colour scale with round values as ticks, and what its ends mean."""
    colours = ramp("light")
    for index, colour in enumerate(colours):
        x, wide = left + width * index / len(colours), width / len(colours) + 0.5
        add(parent, "rect", x=round(x, 2), y=top, height=11, width=round(wide, 2), fill=colour)
    for value in _ticks(largest, width / 2):
        at = left + width * (0.5 + 0.5 * signed_root(value, largest))
        add(parent, "line", class_="tick-line", x1=at, x2=at, y1=top + 11, y2=top + 15, stroke=RULE)
        words = f"{float(f'{value:.2g}'):g}".replace("-", "\u2212")
        text(parent, at, top + 24, words, anchor="middle", fill=MUTED, size=10)
    text(parent, left, top + 38, ends[0], fill=MUTED, size=10)
    text(parent, left + width, top + 38, ends[1], anchor="end", fill=MUTED, size=10)


def _ticks(largest: float, half: float) -> list[float]:
    """Zero, and values of both signs whose labels have room on half the scale's length."""
    kept, last = [0.0], 0.0
    sizes = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, largest)
    for size in sizes:
        at = half * signed_root(size, largest)
        if size <= largest and at - last >= (24 if size == largest else 30):
            kept += [size, -size]
            last = at
    return kept


def edge_key(parent: ElementTree.Element, left: Number, top: Number, largest: Number) -> None:
    """Draw the key of edge widths."""
    for index, share in enumerate((1.0, 0.5, 0.1)):
        x = left + 82 * index
        add(
            parent,
            "path",
            class_="for",
            d=f"M{x:g} {top + 6:g}h34",
            stroke=FOR,
            stroke_width=WIDEST * share,
        )
        text(parent, x + 40, top + 10, f"{largest * share:.2g}", fill=MUTED, size=10)
    text(parent, left, top + 37, "edge score, logits", fill=MUTED, size=10)


def _colour(group: ElementTree.Element, place: int | None, words: str | None = None) -> None:
    rect, label = group
    colour = "none" if place is None else ramp("light")[place]
    rect.set("fill", colour)
    rect.set("stroke", RULE if place is None else "none")
    label.set("fill", MUTED if place is None else ink(colour))
    if words is not None:
        label.text = words


def _svg(width: Number, height: Number, kind: str, role: str, label: str) -> ElementTree.Element:
    named = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "class": kind,
        "role": role,
        "aria-label": label,
        "xmlns": "http://www.w3.org/2000/svg",
    }
    return ElementTree.Element("svg", named)


def _box(
    parent: ElementTree.Element,
    box: list[Number],
    words: str,
    size: Number,
    kind: str,
    of_text: str = "",
    weight: str = "400",
) -> None:
    x, y, width, height = box
    group = add(parent, "g", class_=kind)
    add(group, "rect", x=x, y=y, width=width, height=height, rx=2, fill="none", stroke=RULE)
    text(
        group,
        x + width / 2,
        y + height / 2 + 0.36 * size,
        words,
        anchor="middle",
        fill=MUTED,
        size=size,
        weight=weight,
        kind=of_text,
    )


def text(
    parent: ElementTree.Element,
    x: Number,
    y: Number,
    words: str,
    *,
    anchor: str = "start",
    fill: str = INK,
    size: Number = 11,
    weight: str = "400",
    kind: str = "tick-label",
) -> None:
    """Add a line of text at its baseline."""
    element = add(
        parent,
        "text",
        x=round(x, 2),
        y=round(y, 2),
        text_anchor=anchor,
        fill=fill,
        font_size=round(size, 1),
        font_weight=weight,
        class_=kind,
    )
    element.text = words


def add(parent: ElementTree.Element, tag: str, **attributes: Any) -> ElementTree.Element:
    """Add an element; ``stroke_width`` becomes ``stroke-width`` and ``class_`` ``class``."""
    named = {
        name.strip("_").replace("_", "-"): f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return ElementTree.SubElement(parent, tag, named)

"""The circuit map as a picture of its own: for slides, papers and films of the training.

Layout, colours and edges are those of the page, and every scale is the run's: two frames can be
laid side by side. The SVG is built as a tree, so that text from a run can never become markup.
"""

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from circuitlapse.report.colours import ink, place, ramp
from circuitlapse.report.data import RunRecords
from circuitlapse.report.layout import Layout
from circuitlapse.report.names import FATES, node_label, task_title
from circuitlapse.report.numbers import number

_GAP, _MARGIN, _TOP, _CURVES = 28.0, 24.0, 46.0, 104.0
_WIDEST = 7.0
_FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
_INK, _MUTED, _RULE, PAPER = "#1b1d20", "#5a6169", "#dddcd6", "#fffefb"
_OF = {"old": "#56616d", "new": "#b0206f", "difference": _INK}
_FOR, _AGAINST = "#2166ac", "#b35806"
LINES = (_INK, _MUTED, _RULE, *_OF.values(), _FOR, _AGAINST)  # all that is drawn but for effects
_Number = float | int


@dataclass(frozen=True)
class Frame:
    """What a frame shows, besides the layout.

    Attributes:
        step: Its place among the run's steps.
        run: Its place among the run's seeds.
        family: The corruption.
        edges: How many edges are drawn on each map.
    """

    step: int
    run: int = 0
    family: str = ""
    edges: int = 40


def draw_frame(
    records: RunRecords, data: dict[str, Any], layout: Layout, frame: Frame
) -> ElementTree.Element:
    """Draw both circuits and their difference at one step, below the learning curves.

    Args:
        records: The run.
        data: What the page's script draws, from :func:`circuitlapse.report.payload.payload`.
        layout: From :func:`circuitlapse.report.circuit.layout_of`.
        frame: Which step, seed and corruption.

    Returns:
        The root of an SVG.
    """
    width = 2 * _MARGIN + 3 * layout.width + 2 * _GAP
    height = _TOP + _CURVES + layout.height + 66
    svg = ElementTree.Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}", "height": f"{height:g}", "font-family": _FONT, "font-size": "11",
        "fill": _INK,
    })  # fmt: skip
    _add(svg, "rect", width=width, height=height, fill=PAPER)
    step = data["steps"][frame.step]
    tasks = records.experiment.tasks
    title = f"{task_title(tasks.old)} to {task_title(tasks.new)}: step {step}"
    _text(svg, _MARGIN, 28, title, size=16, weight="600")
    note = f"{records.name}, corruption {frame.family}"
    _text(svg, width - _MARGIN, 28, note, anchor="end", fill=_MUTED)
    _curves(svg, data, frame, (_MARGIN + 30, _TOP, width - _MARGIN - 30, _TOP + _CURVES - 34))
    largest = data["largest"]
    for index, kind in enumerate(("old", "new", "difference")):
        x = _MARGIN + index * (layout.width + _GAP)
        group = _add(svg, "g", transform=f"translate({x:g},{_TOP + _CURVES:g})")
        _map(group, kind, data, layout, frame, largest)
    _legend(svg, _MARGIN + 30, height - 46, largest)
    _edge_key(svg, _MARGIN + layout.width + _GAP + 30, height - 46, data["edges"]["largest"])
    signs = [f"{sign} {fate}" for fate, (sign, _) in FATES.items() if sign]
    _text(svg, _MARGIN + 2 * (layout.width + _GAP) - 60, height - 30, "   ".join(signs),
          fill=_MUTED, size=10)  # fmt: skip
    return svg


def _map(
    group: ElementTree.Element, kind: str, data: dict[str, Any], layout: Layout, frame: Frame,
    largest: float,
) -> None:  # fmt: skip
    titles = {f"{task['role']}": f"{task['role'].capitalize()} task: {task['title']}"
              for task in data["tasks"]}  # fmt: skip
    left = layout.boxes["logits"][0]
    _text(group, left, 14, titles.get(kind, "Difference: new \u2212 old"), fill=_OF[kind],
          weight="600", size=12)  # fmt: skip
    for layer, y in enumerate(layout.rows):
        _text(group, left - 7, y + 4, f"L{layer}", anchor="end", fill=_MUTED)
    for head, x in enumerate(layout.columns):
        if head % (4 if len(layout.columns) > 16 else 1) == 0:
            _text(group, x, layout.height - 5, "H0" if head == 0 else str(head), anchor="middle",
                  fill=_MUTED)  # fmt: skip
    _box(group, layout.boxes["logits"], "none", "logits", _MUTED)
    for edge, score in _edges(kind, data, frame):
        _add(group, "path", d=data["edges"]["list"][edge][3], fill="none",
             stroke=_FOR if score > 0 else _AGAINST,
             stroke_width=round(_WIDEST * abs(score) / data["edges"]["largest"], 2),
             stroke_opacity=0.85)  # fmt: skip
    for name, box in layout.positions[kind].items():
        _box(group, box, *_fill(_position_effect(kind, data, frame, name), largest, name), size=9)
    fates = {row["node"]: row["fate"] for row in data["fates"].get(
        f"{frame.run}/{frame.family}", [])}  # fmt: skip
    for index, node in enumerate(data["nodes"]):
        value = _effect(kind, data, frame, index)
        sign = "" if kind == "difference" else FATES.get(fates.get(node["id"], ""), ("", ""))[0]
        if node["head"] < 0:
            beyond = value is not None and abs(value) > largest
            sign = node_label(node["id"]) + (f":  {number(value, 0)}" if beyond else "")
        size = 9 if node["head"] < 0 else min(14, 0.62 * min(layout.boxes[node["id"]][2:]))
        _box(group, layout.boxes[node["id"]], *_fill(value, largest, sign), size=size)


def _fill(value: float | None, largest: float, text: str) -> tuple[str, str, str]:
    """A box's colour, its text, and the text's colour."""
    if value is None:
        return "none", text, _MUTED
    colour = ramp("light")[place(value, largest)]
    return colour, text, ink(colour)


def _both(old: float | None, new: float | None, kind: str) -> float | None:
    if kind == "difference":
        return None if old is None or new is None else new - old
    return old if kind == "old" else new


def _effect(kind: str, data: dict[str, Any], frame: Frame, node: int) -> float | None:
    at = frame.step * len(data["nodes"]) + node
    found = (
        data["effects"].get(f"{frame.run}/{task['name']}/{frame.family}") for task in data["tasks"]
    )
    old, new = (columns[0][at] if columns else None for columns in found)
    return _both(old, new, kind)


def _position_effect(kind: str, data: dict[str, Any], frame: Frame, name: str) -> float | None:
    if frame.family != next(iter(data["families"]["shared"]), None):
        return None
    found = []
    for task in data["tasks"]:
        columns = data["patching"].get(f"{frame.run}/{task['name']}/resid_pre")
        per_step = len(columns[0]) // len(data["steps"]) if columns else 0
        at = frame.step * per_step + data["positions"].index(name)
        found.append(columns[0][at] if columns else None)
    return _both(found[0], found[1], kind)


def _edges(kind: str, data: dict[str, Any], frame: Frame) -> list[tuple[int, float]]:
    """The strongest edges of one map, as on the page."""
    old, new = (
        dict(zip(*(data["edges"]["series"].get(f"{frame.run}/{task['name']}/{frame.family}")
                   or [[[], []]] * len(data["steps"]))[frame.step], strict=True))
        for task in data["tasks"]
    )  # fmt: skip
    if kind == "difference":
        shown = {edge: score - old[edge] for edge, score in new.items() if edge in old}
    else:
        shown = old if kind == "old" else new
    return sorted(shown.items(), key=lambda item: -abs(item[1]))[: frame.edges]


def _curves(
    svg: ElementTree.Element, data: dict[str, Any], frame: Frame, box: tuple[_Number, ...]
) -> None:
    """Accuracy among the names of both tasks, with the frame's step marked."""
    left, top, right, bottom = box
    steps = data["steps"]
    span = max(1, steps[-1] - steps[0])

    def x(step: int) -> float:
        return round(left + (right - left) * (step - steps[0]) / span, 2)

    def y(value: _Number) -> float:
        return round(bottom - (bottom - top) * value, 2)

    for value in (0, 0.5, 1):
        _add(svg, "line", x1=left, x2=right, y1=y(value), y2=y(value), stroke=_RULE)
        _text(svg, left - 6, y(value) + 4, f"{value:g}", anchor="end", fill=_MUTED)
    ends = []
    for task in data["tasks"]:
        columns = data["behaviour"].get(f"{frame.run}/{task['name']}/test")
        values = columns["accuracy_among"][0] if columns else []
        points = [(x(step), y(value)) for step, value in zip(steps, values, strict=False)
                  if value is not None]  # fmt: skip
        colour = _OF[task["role"]]
        _add(svg, "polyline", points=" ".join(f"{a:g},{b:g}" for a, b in points), fill="none",
             stroke=colour, stroke_width=2,
             stroke_dasharray="5 2.5" if task["role"] == "old" else "none")  # fmt: skip
        ends.append(f"{task['title']} ({task['role']})")
        if values and values[frame.step] is not None:
            _add(svg, "circle", cx=x(steps[frame.step]), cy=y(values[frame.step]), r=4, fill=colour)
    at = x(steps[frame.step])
    _add(svg, "line", x1=at, x2=at, y1=top - 4, y2=bottom, stroke=_INK)
    _text(svg, left, bottom + 16, f"accuracy among the names: {ends[0]} dashed, {ends[1]} solid",
          fill=_MUTED)  # fmt: skip
    _text(svg, right, bottom + 16, f"step {steps[-1]}", anchor="end", fill=_MUTED)


def _legend(svg: ElementTree.Element, left: _Number, top: _Number, largest: _Number) -> None:
    colours, width = ramp("light"), 300.0
    for index, colour in enumerate(colours):
        _add(svg, "rect", x=round(left + width * index / len(colours), 2), y=top, height=10,
             width=round(width / len(colours) + 0.5, 2), fill=colour)  # fmt: skip
    for share in (-1.0, -0.25, 0.0, 0.25, 1.0):
        at = left + width * (0.5 + 0.5 * (abs(share) ** 0.5) * (1 if share >= 0 else -1))
        _text(svg, at, top + 23, number(share * largest, 1), anchor="middle", fill=_MUTED, size=10)
    _text(svg, left, top + 37, "works against the answer", fill=_MUTED, size=10)
    _text(svg, left + width, top + 37, "needed for the answer (logits)", anchor="end",
          fill=_MUTED, size=10)  # fmt: skip


def _edge_key(svg: ElementTree.Element, left: _Number, top: _Number, largest: _Number) -> None:
    for index, share in enumerate((1.0, 0.5, 0.1)):
        x = left + 82 * index
        _add(svg, "path", d=f"M{x:g} {top + 6:g}h34", stroke=_FOR, stroke_width=_WIDEST * share)
        _text(svg, x + 40, top + 10, f"{largest * share:.2g}", fill=_MUTED, size=10)
    _text(svg, left, top + 37, "edge score, logits", fill=_MUTED, size=10)


def _box(
    parent: ElementTree.Element, box: list[_Number], fill: str, text: str, colour: str,
    size: _Number = 9,
) -> None:  # fmt: skip
    x, y, width, height = box
    _add(parent, "rect", x=x, y=y, width=width, height=height, rx=2, fill=fill,
         stroke=_RULE if fill == "none" else "none")  # fmt: skip
    if text:
        _text(parent, x + width / 2, y + height / 2 + 0.36 * size, text, anchor="middle",
              fill=colour, size=size)  # fmt: skip


def _text(
    parent: ElementTree.Element, x: _Number, y: _Number, text: str, *, anchor: str = "start",
    fill: str = _INK, size: _Number = 11, weight: str = "400",
) -> None:  # fmt: skip
    element = _add(parent, "text", x=round(x, 2), y=round(y, 2), text_anchor=anchor, fill=fill,
                   font_size=round(size, 1), font_weight=weight)  # fmt: skip
    element.text = text


def _add(parent: ElementTree.Element, tag: str, **attributes: Any) -> ElementTree.Element:
    named = {name.replace("_", "-"): f"{value:g}" if isinstance(value, float) else str(value)
             for name, value in attributes.items()}  # fmt: skip
    return ElementTree.SubElement(parent, tag, named)

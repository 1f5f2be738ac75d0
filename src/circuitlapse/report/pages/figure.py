"""The circuit map at one step as a picture. Scales span the run, so frames can be compared."""

from typing import Any
from xml.etree import ElementTree

from circuitlapse.report.series.drawing import (
    EFFECT_ENDS,
    INK,
    MUTED,
    PAPER,
    ROLES,
    RULE,
    Number,
    add,
    colour_key,
    draw_map,
    edge_key,
    show_frame,
    text,
)
from circuitlapse.report.series.labels import CATEGORIES, task_title
from circuitlapse.report.series.map_layout import Layout
from circuitlapse.report.series.marks import KINDS, Frame, edges_of, marks
from circuitlapse.report.series.run_records import RunRecords

_GAP, _MARGIN, _TOP, _CURVES = 28.0, 24.0, 46.0, 104.0
_FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"


def draw_frame(
    records: RunRecords, data: dict[str, Any], layout: Layout, frame: Frame
) -> ElementTree.Element:
    """Return an SVG of the learning curves, both circuits and their difference at one step."""
    width = 2 * _MARGIN + 3 * layout.width + 2 * _GAP
    height = _TOP + _CURVES + layout.height + 66
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "width": f"{width:g}",
            "height": f"{height:g}",
            "font-family": _FONT,
            "font-size": "11",
            "fill": INK,
        },
    )
    add(svg, "rect", width=width, height=height, fill=PAPER)
    step = data["steps"][frame.step]
    tasks = records.experiment.tasks
    title = f"{task_title(tasks.old)} to {task_title(tasks.new)}: step {step}"
    text(svg, _MARGIN, 28, title, size=16, weight="600")
    note = f"{records.name}, counterfactual {frame.family}"
    text(svg, width - _MARGIN, 28, note, anchor="end", fill=MUTED)
    _curves(svg, data, frame, (_MARGIN + 30, _TOP, width - _MARGIN - 30, _TOP + _CURVES - 34))
    for index, kind in enumerate(KINDS):
        x = _MARGIN + index * (layout.width + _GAP)
        group = add(svg, "g", transform=f"translate({x:g},{_TOP + _CURVES:g})")
        draw_map(group, kind, data, layout)
        show_frame(group, marks(kind, data, frame), edges_of(kind, data, frame), data)
    colour_key(svg, _MARGIN + 30, height - 46, 300, data["largest"], EFFECT_ENDS)
    edge_key(svg, _MARGIN + layout.width + _GAP + 30, height - 46, data["edges"]["largest"])
    signs = [f"{sign} {category}" for category, (sign, _) in CATEGORIES.items() if sign]
    text(
        svg,
        _MARGIN + 2 * (layout.width + _GAP) - 60,
        height - 30,
        "  ·  ".join(signs),
        fill=MUTED,
        size=10,
    )
    return svg


def _curves(
    svg: ElementTree.Element, data: dict[str, Any], frame: Frame, box: tuple[Number, ...]
) -> None:
    """Accuracy over the candidates of both tasks, with the frame's step marked."""
    left, top, right, bottom = box
    steps = data["steps"]
    span = max(1, steps[-1] - steps[0])

    def x(step: int) -> float:
        return round(left + (right - left) * (step - steps[0]) / span, 2)

    def y(value: Number) -> float:
        return round(bottom - (bottom - top) * value, 2)

    for value in (0, 0.5, 1):
        add(svg, "line", x1=left, x2=right, y1=y(value), y2=y(value), stroke=RULE)
        text(svg, left - 6, y(value) + 4, f"{value:g}", anchor="end", fill=MUTED)
    ends = []
    for task in data["tasks"]:
        columns = data["behaviour"].get(f"{frame.run}/{task['name']}/test")
        values = columns["candidate_accuracy"][0] if columns else []
        points = [
            (x(step), y(value))
            for step, value in zip(steps, values, strict=False)
            if value is not None
        ]
        colour = ROLES[task["role"]]
        add(
            svg,
            "polyline",
            points=" ".join(f"{a:g},{b:g}" for a, b in points),
            fill="none",
            stroke=colour,
            stroke_width=2,
            stroke_dasharray="5 2.5" if task["role"] == "old" else "none",
        )
        ends.append(f"{task['title']} ({task['role']})")
        if values and values[frame.step] is not None:
            add(svg, "circle", cx=x(steps[frame.step]), cy=y(values[frame.step]), r=4, fill=colour)
    at = x(steps[frame.step])
    add(svg, "line", x1=at, x2=at, y1=top - 4, y2=bottom, stroke=INK)
    text(
        svg,
        left,
        bottom + 16,
        f"accuracy over the candidates: {ends[0]} dashed, {ends[1]} solid",
        fill=MUTED,
    )
    text(svg, right, bottom + 16, f"step {steps[-1]}", anchor="end", fill=MUTED)

"""The circuit map's colours, texts and edges at one step, for pictures and the page."""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from circuitlapse.report.series.colours import place
from circuitlapse.report.series.grid import short
from circuitlapse.report.series.labels import CATEGORIES, node_label

KINDS = ("old", "new", "difference")
Scores = dict[int, float]  # by place in the list of edges
_FIRST = 0x100  # the character of the ramp's first colour


@dataclass(frozen=True)
class Frame:
    """The step and run of a map, as indices, its counterfactual type, and its number of edges."""

    step: int
    run: int = 0
    family: str = ""
    edges: int = 40


@dataclass(frozen=True)
class Marks:
    """The parts of one map that change between frames.

    ``cells`` and ``positions`` are indices in the ramp, None without a measurement; ``nothing``
    says why no cell has a colour, if none has.
    """

    cells: list[int | None]
    texts: list[str]
    positions: list[int | None]
    nothing: str


def marks(kind: str, data: dict[str, Any], frame: Frame) -> Marks:
    """Return the marks of a map in a frame; ``kind`` is one of :data:`KINDS`."""
    largest = data["largest"]
    names = data["layout"]["positions"][kind]
    values = _effects(kind, data, frame)
    at_positions = [_position_effect(kind, data, frame, name) for name in names]
    return Marks(
        [_place(value, largest) for value in values],
        [
            _with_value(text, value, largest) if node["head"] < 0 else text
            for node, text, value in zip(
                data["nodes"], _labels(kind, data, frame), values, strict=True
            )
        ],
        [_place(value, largest) for value in at_positions],
        "" if any(value is not None for value in values) else _why_nothing(kind, data, frame),
    )


def edges_of(kind: str, data: dict[str, Any], frame: Frame) -> list[tuple[int, float]]:
    """Return a map's edges, the strongest first: index in ``data["edges"]["list"]`` and score."""
    key = f"{frame.run}/{_name(kind, data)}/{frame.family}"
    series = data["edges"]["series"].get(key)
    if not series:
        return []
    distances, scores = series[frame.step]
    found = list(zip(accumulate(distances), scores, strict=True))
    return sorted(found, key=lambda each: -abs(each[1]))[: frame.edges]


def series(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Collect the marks of every frame for the page, under ``run/kind/counterfactual``.

    ``places`` has for each node and then each named position one character per step: the index in
    the ramp after U+0100, or a blank. ``texts`` are those of the first step, and ``changed`` lists
    later changes as [step, node, text]. ``nothing`` runs over the steps.
    """
    families = [*data["families"]["shared"], *data["families"]["single"]]
    return {
        f"{run}/{kind}/{family}": _compact(
            [marks(kind, data, Frame(step, run, family)) for step in range(len(data["steps"]))]
        )
        for run in range(len(data["runs"]))
        for kind in KINDS
        for family in families
    }


def _compact(found: list[Marks]) -> dict[str, Any]:
    first = found[0].texts
    return {
        "places": "".join(
            " " if place is None else chr(_FIRST + place)
            for steps in zip(*([*each.cells, *each.positions] for each in found), strict=True)
            for place in steps
        ),
        "texts": first,
        "changed": [
            [step, node, text]
            for step, each in enumerate(found)
            for node, text in enumerate(each.texts)
            if text != first[node]
        ],
        "nothing": [each.nothing for each in found],
    }


def edge_differences(
    series: dict[str, list[Scores]], tasks: list[dict[str, Any]]
) -> dict[str, list[Scores]]:
    """``run//counterfactual`` → new minus old at each step, of edges with both scores."""
    old, new = (task["name"] for task in tasks)
    found = {}
    for key, of_old in series.items():
        run, task, family = key.split("/", 2)
        of_new = series.get(f"{run}/{new}/{family}")
        if task == old and of_new:
            found[f"{run}//{family}"] = [
                {edge: short(now[edge] - then[edge], 3) or 0.0 for edge in now if edge in then}
                for then, now in zip(of_old, of_new, strict=True)
            ]
    return found


def packed_edges(scores: Scores) -> list[list]:
    """Return the edges' sorted indices, each as the difference from the one before, and scores."""
    places = sorted(scores)
    distances = [now - before for before, now in pairwise([0, *places])]
    return [distances, [scores[place] for place in places]]


def _name(kind: str, data: dict[str, Any]) -> str:
    return next((task["name"] for task in data["tasks"] if task["role"] == kind), "")


def _place(value: float | None, largest: float) -> int | None:
    return None if value is None else place(value, largest)


def _labels(kind: str, data: dict[str, Any], frame: Frame) -> list[str]:
    """Each MLP's name, and the sign of each head's change category."""
    rows = data["head_changes"].get(f"{frame.run}/{frame.family}", [])
    changes = {} if kind == "difference" else {row["node"]: row["category"] for row in rows}
    return [
        node_label(node["id"])
        if node["head"] < 0
        else CATEGORIES.get(changes.get(node["id"], ""), ("", ""))[0]
        for node in data["nodes"]
    ]


def _with_value(text: str, value: float | None, largest: float) -> str:
    """Add the effect, in two digits, where it exceeds the colour scale."""
    if value is None or abs(value) <= largest:
        return text
    return f"{text}:  {float(f'{value:.2g}'):g}".replace("-", "\u2212")


def _why_nothing(kind: str, data: dict[str, Any], frame: Frame) -> str:
    known = all(
        f"{frame.run}/{task['name']}/{frame.family}" in data["effects"]
        for task in data["tasks"]
        if kind in ("difference", task["role"])
    )
    return "not patched at this step" if known else f"no counterfactual “{frame.family}”"


def _both(kind: str, old: float | None, new: float | None) -> float | None:
    if kind == "difference":
        return None if old is None or new is None else new - old
    return old if kind == "old" else new


def _effects(kind: str, data: dict[str, Any], frame: Frame) -> list[float | None]:
    count = len(data["nodes"])
    at = slice(frame.step * count, (frame.step + 1) * count)
    old, new = (
        columns[0][at] if columns else [None] * count
        for task in data["tasks"]
        for columns in [data["effects"].get(f"{frame.run}/{task['name']}/{frame.family}")]
    )
    return [_both(kind, *pair) for pair in zip(old, new, strict=True)]


def _position_effect(kind: str, data: dict[str, Any], frame: Frame, name: str) -> float | None:
    """Effect of corrupting the input at one position: a patch before layer 0."""
    ends = {0: 0, len(data["steps"]) - 1: 1}
    if frame.step not in ends or frame.family != next(iter(data["families"]["shared"]), None):
        return None
    found = []
    for task in data["tasks"]:
        columns = data["patching"].get(f"{frame.run}/{task['name']}/resid_pre")
        half = len(columns[0]) // 2 if columns else 0
        at = ends[frame.step] * half + data["positions"].index(name)
        found.append(columns[0][at] if columns else None)
    return _both(kind, found[0], found[1])

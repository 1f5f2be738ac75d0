"""The circuit map's layout and colours, which the page and the exported pictures share."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from circuitlapse.errors import CircuitlapseError
from circuitlapse.report.pages.film import frames, write_gif, write_pictures
from circuitlapse.report.series.colours import STEPS, ink, place, ramp
from circuitlapse.report.series.map_layout import map_layout
from circuitlapse.report.series.marks import KINDS, Frame, marks
from circuitlapse.report.series.payload import payload
from circuitlapse.report.series.run_records import read_run
from report_synthetic import write_run

POSITIONS = {"old": ["IO", "S", "END"], "new": ["IO", "S1", "S2", "END"], "difference": ["IO"]}
SVG = "{http://www.w3.org/2000/svg}"


def _nodes(layers: int, heads: int) -> list[str]:
    return [
        *(f"a{layer}.h{head}" for layer in range(layers) for head in range(heads)),
        *(f"m{layer}" for layer in range(layers)),
    ]


@given(st.integers(1, 48), st.integers(1, 32))
def test_boxes_stay_inside_and_apart_whatever_the_model(layers: int, heads: int):
    layout = map_layout(_nodes(layers, heads), POSITIONS)
    boxes = [*layout.boxes.values()]
    assert all(w > 0 and h > 0 for _, _, w, h in boxes)
    assert all(x >= 0 and x + w <= layout.width + 0.02 for x, _, w, _ in boxes)
    assert all(y >= 0 and y + h <= layout.height for _, y, _, h in boxes)
    row = sorted(layout.boxes[f"a0.h{head}"] for head in range(heads))
    assert all(a[0] + a[2] < b[0] + 0.02 for a, b in pairwise(row))
    order = ["input"]
    for layer in range(layers):
        order += [f"a{layer}.h0", f"m{layer}"]
    tops = [layout.boxes[node][1] for node in [*order, "logits"]]
    assert tops == sorted(tops, reverse=True)
    for names, chips in zip(POSITIONS.values(), layout.positions.values(), strict=True):
        assert list(chips) == names


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("input", "a0.h3<q>"),
        ("a0.h0", "m0"),
        ("a0.h7", "a2.h1<v>"),
        ("m1", "a3.h2<k>"),
        ("m0", "m3"),
        ("input", "logits"),
        ("a3.h5", "logits"),
        ("m3", "logits"),
    ],
)
def test_every_edge_leads_upwards_from_its_writer_to_its_reader(writer: str, reader: str):
    layout = map_layout(_nodes(4, 8), POSITIONS)
    path = layout.path(writer, reader)
    numbers = [float(text) for text in re.findall(r"-?[\d.]+", path)]
    start, end = layout.boxes[writer], layout.boxes[reader.partition("<")[0]]
    first_x, first_y, last_y = numbers[0], numbers[1], numbers[-1]
    if "c" in path:  # relative to the start
        last_y += first_y
    assert first_y == pytest.approx(start[1], abs=0.06)
    assert last_y == pytest.approx(end[1] + end[3], abs=0.11)
    assert first_y > last_y
    assert start[0] <= first_x <= start[0] + start[2]


def test_the_ramp_is_neutral_at_zero_and_every_sign_can_be_read_on_it():
    for theme in ("light", "dark"):
        colours = ramp(theme)
        assert len(colours) == 2 * STEPS + 1
        parts = [int(colours[STEPS][i : i + 2], 16) for i in (1, 3, 5)]
        assert max(parts) - min(parts) < 10
        assert all(_contrast(colour, ink(colour)) >= 4.2 for colour in colours)
    assert (place(-9.0, 3.0), place(0.0, 3.0), place(9.0, 3.0)) == (0, STEPS, 2 * STEPS)
    assert place(0.75, 3.0) == STEPS + STEPS // 2  # the square root of a quarter


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "<b> & run"  # a name that must stay text
    return write_run(tmp_path_factory.mktemp("map") / name, steps=16)


def test_a_picture_has_the_pages_cells_colours_and_edges(run: Path, tmp_path: Path):
    records = read_run(run)
    data = payload(records)
    paths = write_pictures(frames(records, edges=10), tmp_path / "svg", "svg", _ignore)
    assert [path.name for path in paths] == ["step-00000.svg", "step-00008.svg", "step-00016.svg"]
    root = ElementTree.parse(paths[2]).getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "2-name IOI to 3-name IOI: step 16" in texts
    assert "<b> & run, counterfactual subject" in texts
    assert len(root.findall(f"{SVG}g")) == 3
    for group, task in zip(root.findall(f"{SVG}g"), ("ioi2", "ioi3"), strict=False):
        assert len(list(group.iter(f"{SVG}path"))) == 10
        effects = data["effects"][f"0/{task}/subject"][0][-len(data["nodes"]) :]
        wanted = [ramp("light")[place(value, data["largest"])] for value in effects]
        fills = [rect.get("fill") for rect in group.iter(f"{SVG}rect")]
        assert fills[-len(wanted) :] == wanted


def test_the_scales_do_not_move_with_the_step(run: Path):
    pictures = [ElementTree.fromstring(svg) for _, _, svg in frames(read_run(run))]
    legends = [[e.text for e in picture.findall(f"{SVG}text")][-12:] for picture in pictures]
    assert legends[0] == legends[1] == legends[2]


def test_a_step_without_patching_says_so_on_every_map(run: Path):
    data = payload(read_run(run))
    data["effects"] = {
        key: [[None] * len(column) for column in columns]
        for key, columns in data["effects"].items()
    }
    frame = Frame(0, family=next(iter(data["effects"])).split("/", 2)[2])
    for kind in KINDS:
        assert marks(kind, data, frame).nothing == "not patched at this step"
    assert marks("difference", data, Frame(0, family="x")).nothing == "no counterfactual “x”"


@pytest.mark.slow
def test_a_film_has_a_picture_for_each_checkpoint(run: Path, tmp_path: Path):
    seen = []
    path = write_gif(
        frames(read_run(run)), tmp_path / "new" / "map.gif", lambda *done: seen.append(done)
    )
    with Image.open(path) as film:
        assert film.n_frames == 3  # pyright: ignore[reportAttributeAccessIssue]
        assert film.info["loop"] == 0
        assert film.width > 1000
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with Image.open(write_pictures(frames(read_run(run)), tmp_path, "png", _ignore)[0]) as picture:
        assert picture.width == 2 * film.width


def test_a_film_shows_every_effect_in_its_colour_in_every_frame(run: Path, tmp_path: Path):
    pictures = list(frames(read_run(run), edges=0))
    seen = set()
    with Image.open(write_gif(iter(pictures), tmp_path / "map.gif", _ignore)) as film:
        for index, (_, _, svg) in enumerate(pictures):
            film.seek(index)
            frame = film.convert("RGB")
            for x, y, fill in _filled(svg):
                wanted = tuple(bytes.fromhex(fill[1:]))
                got = frame.getpixel((x, y))
                assert isinstance(got, tuple)
                assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= 6, (index, fill)
                seen.add((index, ramp("light").index(fill) // STEPS))
    assert {(index, side) for index in range(3) for side in (0, 1)} <= seen


def _filled(svg: str) -> list[tuple[int, int, str]]:
    """A point in each cell's corner, which no text covers, and the cell's colour."""
    found = []
    for group in ElementTree.fromstring(svg).findall(f"{SVG}g"):
        left, top = map(float, re.findall(r"[\d.]+", group.get("transform", "")))
        for rect in group.iter(f"{SVG}rect"):
            x, y, fill = (rect.get(name, "") for name in ("x", "y", "fill"))
            if fill.startswith("#"):
                found.append((round(left + float(x) + 3), round(top + float(y) + 3), fill))
    return found


def test_text_is_drawn_with_the_fonts_of_the_package_alone(run: Path, tmp_path: Path):
    drawn = [svg for _, _, svg in frames(read_run(run))][-1:]
    textless = re.sub("<text[^>]*[^/>]>.*?</text>", "", drawn[0])
    pair = [(2, step, svg) for step, svg in enumerate((drawn[0], textless))]
    with_text, without = (
        Image.open(path).convert("L")
        for path in write_pictures(iter(pair), tmp_path, "png", _ignore)
    )
    difference = ImageChops.difference(with_text, without).crop((0, 0, with_text.width, 80))
    assert sum(difference.histogram()[64:]) > 2000  # the title and the note


def test_names_of_pictures_sort_by_step(tmp_path: Path):
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    made = ((3, step, picture) for step in (0, 99000, 143000))
    paths = write_pictures(made, tmp_path, "svg", _ignore)
    assert [path.name for path in paths] == [
        "step-000000.svg",
        "step-099000.svg",
        "step-143000.svg",
    ]


def test_a_seed_or_counterfactual_that_the_run_lacks_is_named(run: Path):
    records = read_run(run)
    with pytest.raises(CircuitlapseError, match=r"no such seed \(got '?7'?\)\. Use one of 0"):
        next(frames(records, seed=7))
    with pytest.raises(
        CircuitlapseError, match=r"no such counterfactual .*'x'.*subject, names, s1_to"
    ):
        next(frames(records, counterfactual="x"))


def _ignore(done: int, total: int) -> None:
    pass

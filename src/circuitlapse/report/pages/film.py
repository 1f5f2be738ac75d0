"""The map over time as files: one SVG or PNG per checkpoint, or one GIF."""

import io
import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import replacing
from circuitlapse.report.pages.figure import draw_frame
from circuitlapse.report.series.colours import ramp
from circuitlapse.report.series.drawing import LINES, PAPER
from circuitlapse.report.series.map_layout import layout_of
from circuitlapse.report.series.marks import Frame
from circuitlapse.report.series.payload import map_data
from circuitlapse.report.series.run_records import RunRecords

Advance = Callable[[int, int], None]
_MILLISECONDS = 260
_LAST_MILLISECONDS = 1500
_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
_NOT_IN_FONTS = re.compile("[^\u0000-\u052f\u1e00-\u22ff\u25a0-\u25ff]")


def frames(
    records: RunRecords,
    *,
    seed: int | None = None,
    counterfactual: str | None = None,
    edges: int = 40,
) -> Iterator[tuple[int, int, str]]:
    """Yield the number of checkpoints, the step and the SVG, for every checkpoint.

    The defaults are the first fine-tuning seed and the run's first counterfactual type; ``edges``
    is the number of edges per map.

    Raises:
        CircuitlapseError: If the run has no such seed or counterfactual.
    """
    data = map_data(records)
    seeds = [run["finetune_seed"] for run in data["runs"]]
    families = [*data["families"]["shared"], *data["families"]["single"]]
    chosen = seeds[0] if seed is None else seed
    family = families[0] if counterfactual is None else counterfactual
    for what, got, known in (("seed", chosen, seeds), ("counterfactual", family, families)):
        if got not in known:
            raise CircuitlapseError(
                f"the run has no such {what}",
                got=got,
                fix=f"Use one of {', '.join(map(str, known))}",
            )
    layout = layout_of(records)
    for place, step in enumerate(data["steps"]):
        frame = Frame(place, seeds.index(chosen), family, edges)
        picture = draw_frame(records, data, layout, frame)
        yield len(data["steps"]), step, ElementTree.tostring(picture, encoding="unicode")


def write_pictures(
    pictures: Iterator[tuple[int, int, str]], directory: Path, kind: str, advance: Advance
) -> list[Path]:
    """Write ``step-00008.svg`` or ``.png`` for each checkpoint into a directory.

    Step numbers are padded, so that names sort by step. Other files are left alone.
    """
    drawn = list(pictures)
    digits = max([5, *(len(str(step)) for _, step, _ in drawn)])
    paths = []
    for total, step, svg in drawn:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step-{step:0{digits}d}.{kind}"
        with replacing(path) as draft:
            draft.write_bytes(svg.encode() if kind == "svg" else _png(svg, 2))
        paths.append(path)
        advance(len(paths), total)
    return paths


def write_gif(pictures: Iterator[tuple[int, int, str]], path: Path, advance: Advance) -> Path:
    """Write all checkpoints as one looping GIF that pauses on the last."""
    from PIL import Image

    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette())
    images = []
    for total, _, svg in pictures:
        image = Image.open(io.BytesIO(_png(svg, 1))).convert("RGB")
        images.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
        advance(len(images), total)
    waits = [_MILLISECONDS] * (len(images) - 1) + [_LAST_MILLISECONDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        images[0].save(
            draft,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=waits,
            loop=0,
            optimize=False,
        )
    return path


def _palette() -> bytes:
    """Every colour of an effect, and shades between paper and the other colours.

    A palette taken from pixels would drop the strongest effects, which cover the fewest.
    """
    lines = [_rgb(colour) for colour in LINES]
    paper = _rgb(PAPER)
    shades = [
        tuple(round(low + (high - low) * part / 5) for low, high in zip(paper, line, strict=True))
        for line in lines
        for part in range(1, 6)
    ]
    colours = [*map(_rgb, ramp("light")), paper, *shades]
    return bytes(part for colour in colours for part in colour)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _png(svg: str, scale: int) -> bytes:
    import resvg_py

    vendor = resources.files("circuitlapse.report") / "vendor"
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            zoom=scale,
            font_files=[str(vendor / name) for name in _FONTS],
            # The system's fonts differ between machines: only other scripts need them.
            skip_system_fonts=not _NOT_IN_FONTS.search(svg),
        )
    )

"""The map over time as files: one SVG or PNG for each checkpoint, or one GIF of them all."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import replacing
from circuitlapse.report.circuit import layout_of
from circuitlapse.report.data import RunRecords
from circuitlapse.report.figure import Frame, draw_frame
from circuitlapse.report.payload import payload

Advance = Callable[[int, int], None]
_MILLISECONDS = 260
_LAST_MILLISECONDS = 1500


def frames(
    records: RunRecords, *, seed: int | None = None, corruption: str | None = None,
    edges: int = 40,
) -> Iterator[tuple[int, int, str]]:  # fmt: skip
    """Draw every checkpoint.

    Args:
        records: The run.
        seed: Fine-tuning seed; the first one by default.
        corruption: Family or variant; by default the run's first family.
        edges: How many edges each map shows.

    Yields:
        How many checkpoints there are, the step, and the picture as an SVG.

    Raises:
        CircuitlapseError: If the run has no such seed or corruption.
    """
    data = payload(records)
    seeds = [run["finetune_seed"] for run in data["runs"]]
    families = [*data["families"]["shared"], *data["families"]["single"]]
    chosen = seeds[0] if seed is None else seed
    family = families[0] if corruption is None else corruption
    for what, got, known in (("seed", chosen, seeds), ("corruption", family, families)):
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

    Args:
        pictures: From :func:`frames`.
        directory: Made if need be; files of other names in it are left alone.
        kind: ``svg`` or ``png``.
        advance: Called with (pictures done, pictures in all).
    """
    paths = []
    for total, step, svg in pictures:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"step-{step:05d}.{kind}"
        with replacing(path) as draft:
            draft.write_bytes(svg.encode() if kind == "svg" else _png(svg, 2))
        paths.append(path)
        advance(len(paths), total)
    return paths


def write_gif(pictures: Iterator[tuple[int, int, str]], path: Path, advance: Advance) -> Path:
    """Write all checkpoints as one endless GIF that rests on the last.

    Args:
        pictures: From :func:`frames`.
        path: The file.
        advance: Called with (pictures done, pictures in all).
    """
    from PIL import Image

    images = []
    for total, _, svg in pictures:
        image = Image.open(io.BytesIO(_png(svg, 1))).convert("RGB")
        images.append(image)
        advance(len(images), total)
    # One palette for the whole film, made where there is most colour: frames then do not flicker.
    palette = images[-1].quantize(colors=128, method=Image.Quantize.MEDIANCUT)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    waits = [_MILLISECONDS] * (len(flat) - 1) + [_LAST_MILLISECONDS]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        flat[0].save(draft, format="GIF", save_all=True, append_images=flat[1:], duration=waits,
                     loop=0, optimize=False)  # fmt: skip
    return path


def _png(svg: str, scale: int) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=scale))

"""JSON and JSONL files from users, with the position of every error.

A file that starts with ``[`` is one JSON array; any other is JSONL, one object per line.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from circuitlapse.errors import CircuitlapseError

_LONGEST_LINE, _LONGEST_ARRAY = 1 << 20, 256 << 20  # bytes, to bound memory
_OTHER_FORMATS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
}


class Line(NamedTuple):
    """An object of a file, and its place: ``line 3`` of JSONL, ``item 3`` of an array, from 1."""

    place: str
    value: dict[str, Any]


def read_lines(path: Path) -> Iterator[Line]:
    """Yield a file's objects in their order; blank lines of JSONL are skipped.

    A line is at most 1 MiB and an array 256 MiB.

    Raises:
        CircuitlapseError: With the file and the place, if it cannot be read, is empty, is not
            UTF-8, is not JSON, or holds something that is not an object.
    """
    line = None
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
            _check_start(path, start)
            stream.seek(3 if start.startswith(codecs.BOM_UTF8) else 0)
            array = start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
            for place, value in (_array if array else _jsonl)(path, stream):
                line = Line(place, _object(path, place, value))
                yield line
    except OSError as error:
        raise CircuitlapseError(
            f"{path} cannot be read: {error.strerror or error}",
            fix="Give the path of a JSON or JSONL file",
        ) from error
    if line is None:
        raise CircuitlapseError(f"{path} is empty", fix="Give a file with at least one item")


def _check_start(path: Path, start: bytes) -> None:
    for magic, kind in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise _wrong(path, "its beginning", f"it is {kind}, not JSON in UTF-8")
    if b"\0" in start:
        raise _wrong(path, f"byte {start.index(0) + 1}", "it is binary, not text")


def _jsonl(path: Path, stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    number = 0
    while raw := stream.readline(_LONGEST_LINE + 1):
        number += 1
        if len(raw) > _LONGEST_LINE:
            raise _wrong(path, f"line {number}", "it is longer than 1 MiB")
        if raw.strip():
            yield f"line {number}", _parsed(path, raw, number)


def _array(path: Path, stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    raw = stream.read(_LONGEST_ARRAY + 1)
    if len(raw) > _LONGEST_ARRAY:
        raise _wrong(path, "its end", "the array is larger than 256 MiB")
    for number, value in enumerate(_parsed(path, raw, 1), 1):
        yield f"item {number}", value


def _parsed(path: Path, raw: bytes, line: int) -> Any:
    """Return the value of a text that begins in a line of the file."""
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        raise _wrong(path, f"line {line}", f"byte 0x{raw[error.start]:02x} is not UTF-8") from error
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, column {error.colno}"
        raise _wrong(path, place, f"it is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise _wrong(path, f"line {line}", "it is nested too deeply") from error


def _object(path: Path, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, place, f"an object with keys is needed, not {json.dumps(value)[:60]}")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _wrong(path, place, "it has half a surrogate pair, which is no character") from error
    return value


def _wrong(path: Path, place: str, what: str) -> CircuitlapseError:
    return CircuitlapseError(
        f"{path}, {place}: {what}",
        fix='Give UTF-8 JSONL, one object such as {"prompt": …, "completion": …} a line, or a JSON '
        "array of such objects",
    )

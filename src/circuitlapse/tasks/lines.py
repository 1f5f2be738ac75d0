"""JSON and JSONL files from users, with the position of every error.

A file that starts with ``[`` is one JSON array; any other is JSONL, one object per line.
"""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from circuitlapse.errors import CircuitlapseError

_MOST_LINE = 1 << 20
_MOST_ARRAY = 256 << 20
_ELSEWHERE = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "Parquet",
}


@dataclass(frozen=True)
class Line:
    """One object of a file.

    Attributes:
        place: Its position in messages: ``line 3`` of JSONL, ``item 3`` of an array, from 1.
        value: The object.
    """

    place: str
    value: dict[str, Any]


def read_lines(path: Path) -> Iterator[Line]:
    """Yield a file's objects in their order; blank lines of JSONL are skipped.

    A line is at most 1 MiB and an array 256 MiB, to bound memory.

    Raises:
        CircuitlapseError: With the file and the place, if it cannot be read, is empty, is not
            UTF-8, is not JSON, or holds something that is not an object.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(1024)
            _check_start(path, start)
            stream.seek(3 if start.startswith(codecs.BOM_UTF8) else 0)
            array = start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
            lines = _array(path, stream) if array else _jsonl(path, stream)
            empty = True
            for line in lines:
                empty = False
                yield line
    except OSError as error:
        raise CircuitlapseError(
            f"{path} cannot be read: {error.strerror or error}",
            fix="Give the path of a JSON or JSONL file",
        ) from error
    if empty:
        raise CircuitlapseError(f"{path} is empty", fix="Give a file with at least one item")


def _check_start(path: Path, start: bytes) -> None:
    for magic, kind in _ELSEWHERE.items():
        if start.startswith(magic):
            raise _wrong(path, "its beginning", f"it is {kind}, not JSON in UTF-8")
    if b"\0" in start:
        raise _wrong(path, f"byte {start.index(0) + 1}", "it is binary, not text")


def _jsonl(path: Path, stream: BinaryIO) -> Iterator[Line]:
    number = 0
    while raw := stream.readline(_MOST_LINE + 1):
        number += 1
        place = f"line {number}"
        if len(raw) > _MOST_LINE:
            raise _wrong(path, place, "it is longer than 1 MiB")
        if raw.strip():
            yield Line(place, _object(path, place, _parsed(path, place, raw)))


def _array(path: Path, stream: BinaryIO) -> Iterator[Line]:
    raw = stream.read(_MOST_ARRAY + 1)
    if len(raw) > _MOST_ARRAY:
        raise _wrong(path, "its end", "the array is larger than 256 MiB")
    for number, value in enumerate(_parsed(path, "the array", raw), 1):
        place = f"item {number}"
        yield Line(place, _object(path, place, value))


def _parsed(path: Path, place: str, raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        where = place if place.startswith("line") else f"line {line}"
        byte = f"byte 0x{raw[error.start]:02x}"
        raise _wrong(path, where, f"{byte} is not UTF-8") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place if place.startswith("line") else f"line {error.lineno}"
        raise _wrong(
            path, f"{where}, column {error.colno}", f"it is not JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise _wrong(path, place, "it is nested too deeply") from error


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

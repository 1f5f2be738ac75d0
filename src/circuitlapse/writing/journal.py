"""Every reply of a server, on disk before anything is made of it.

One line of JSON each, appended and flushed to the disk. A last line that was cut off by a kill is
dropped when the journal is opened again; everything before it counts, and is not asked for again.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.lines import read_lines

_LONGEST = 200_000  # characters of a reply; ten items take two thousand


@dataclass(frozen=True)
class Reply:
    """What the server sent for one request.

    Attributes:
        request: The request's number.
        text: The reply's text, whatever it holds.
    """

    request: int
    text: str


class Journal:
    """The replies so far; made by :func:`open_journal`."""

    def __init__(self, path: Path, replies: list[Reply]) -> None:
        """Go on after the replies that are there."""
        self.path = path
        self.replies = replies

    def add(self, request: int, text: str) -> Reply:
        """Write a reply down; on return it is on the disk."""
        # Half a surrogate pair is valid in JSON's escapes but is no character.
        text = text[:_LONGEST].encode("utf-8", "replace").decode()
        reply = Reply(request, text)
        _append(self.path, asdict(reply))
        self.replies.append(reply)
        return reply


@contextmanager
def open_journal(path: Path, about: dict[str, str]) -> Iterator[Journal]:
    """Open a journal, or begin one, and keep other processes out of it.

    Args:
        path: The file.
        about: What the replies are for; a journal of something else is refused.

    Raises:
        CircuitlapseError: If it is in use, about something else, damaged, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            yield Journal(path, _replies(path, about))
    except Timeout as error:
        raise CircuitlapseError(
            "another process is writing to this journal",
            got=str(path),
            fix="Wait for it, or give another --out",
        ) from error
    except OSError as error:
        raise CircuitlapseError(
            f"the journal cannot be written: {error.strerror or error}",
            got=str(path),
            fix="Give --out in a directory that may be written to",
        ) from error


def _replies(path: Path, about: dict[str, str]) -> list[Reply]:
    if path.exists():
        _drop_torn_line(path)
    if not path.exists() or path.stat().st_size == 0:
        _append(path, about)
        return []
    first, *rest = read_lines(path)
    if first.value != about:
        raise CircuitlapseError(
            f"{path} is a journal of something else",
            got=", ".join(f"{key} {value}" for key, value in first.value.items()),
            fix="Give another --out, or the same task and model as before",
        )
    try:
        return [Reply(**line.value) for line in rest]
    except TypeError as error:
        raise CircuitlapseError(
            f"{path} holds a line that is no reply", fix="Remove that line, or give another --out"
        ) from error


def _drop_torn_line(path: Path) -> None:
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(path, end)


def _append(path: Path, value: object) -> None:
    with path.open("ab") as stream:
        stream.write(json.dumps(value).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())

"""Which replies did the server send? Each is on disk before anything is made of it.

The file has one line of JSON per reply. A last line that a kill cut off is dropped when the journal
is opened again. Every line before it counts.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import Store
from circuitlapse.tasks.lines import read_lines

_LONGEST = 200_000  # characters of a reply; ten items take three thousand


class Reply(NamedTuple):
    """The text that the server sent for the request of a number."""

    request: int
    text: str


class Journal:
    """The replies so far; made by :func:`open_journal`."""

    def __init__(self, path: Path, about: dict[str, str]) -> None:
        """Read the replies that are there, or begin a journal about a task and a model."""
        self.path, self.replies = path, list[Reply]()
        whole, head = path.read_bytes() if path.is_file() else b"", _line(about)
        if head.startswith(whole) and whole != head:  # no journal yet, or a torn first line
            path.write_bytes(b"")
            self._append(about)
        elif whole.startswith(head):
            os.truncate(path, whole.rfind(b"\n") + 1)
        first, *rest = read_lines(path)
        if first.value != about:
            raise CircuitlapseError(
                f"{path} is a journal of another task or model",
                got=", ".join(f"{key} {value}" for key, value in first.value.items())[:200],
                fix="Give another --out, or the same task and model as before",
            )
        for line in rest:
            if list(map(type, line.value.values())) != [int, str]:
                raise CircuitlapseError(f"{path}, {line.place} is no reply", fix="Change --out")
            self.replies.append(Reply(*line.value.values()))

    def add(self, request: int, text: str) -> Reply:
        """Append a reply; on return it is on the disk."""
        # Half a surrogate pair is valid in JSON's escapes but is no character.
        reply = Reply(request, text[:_LONGEST].encode("utf-8", "replace").decode())
        self._append(reply._asdict())
        self.replies.append(reply)
        return reply

    def _append(self, value: dict) -> None:
        with self.path.open("ab") as stream:
            stream.write(_line(value))
            stream.flush()
            os.fsync(stream.fileno())


def _line(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"


@contextmanager
def open_journal(path: Path, about: dict[str, str]) -> Iterator[Journal]:
    """Open or begin a journal, and keep other processes out of its directory.

    Raises:
        CircuitlapseError: If it is in use, about something else, damaged, or cannot be written.
    """
    fix = "Give a --journal in a directory that may be written to"
    try:
        path = path.resolve()  # two links to one journal share its lock
        if path.exists() and not path.is_file():
            raise CircuitlapseError("the journal is no regular file", got=str(path), fix=fix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Store(path.parent).locked():
            yield Journal(path, about)
    except OSError as error:
        what = f"the journal cannot be written: {error.strerror or error}"
        raise CircuitlapseError(what, got=str(path), fix=fix) from error

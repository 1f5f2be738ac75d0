"""Have a server write items until there are enough, balanced over the recipient's list position.

Each reply is on disk before it is read. The journal has one JSON line per reply. A last line that a
killed process left unfinished is dropped.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.store import Store
from circuitlapse.tasks.lines import read_lines
from circuitlapse.written.recipient import LISTED, WrittenTask
from circuitlapse.written.server import FailedError, Request, Server, items_in
from circuitlapse.written.sort import Sorted

_USELESS, _FAILED = 10, 4  # replies without a new item, or failed requests, in a row that end it
_LONGEST = 200_000  # characters of a reply; ten items take three thousand


@contextmanager
def _open_journal(path: Path, about: dict[str, str]) -> Iterator[list[tuple[int, str]]]:
    """Keep other processes out of a journal's directory, and give the replies in the journal."""
    fix = "Use a --journal in a directory that you may write to"
    try:
        path = path.resolve()  # two links to one journal share its lock
        if path.exists() and not path.is_file():
            raise CircuitlapseError("the journal is no regular file", got=str(path), fix=fix)
        path.parent.mkdir(parents=True, exist_ok=True)
        with Store(path.parent).locked():
            yield _replies(path, about)
    except OSError as error:
        what = f"the journal cannot be written: {error.strerror or error}"
        raise CircuitlapseError(what, got=str(path), fix=fix) from error


def _replies(path: Path, about: dict[str, str]) -> list[tuple[int, str]]:
    """Read the number and text of each reply, or begin a journal about a task and a model."""
    content, head = path.read_bytes() if path.is_file() else b"", _line(about)
    if head.startswith(content):  # no journal yet, or an unfinished first line
        path.write_bytes(head)
    elif content.startswith(head):
        os.truncate(path, content.rfind(b"\n") + 1)
    first, *rest = read_lines(path)
    if first.value != about:
        got = ", ".join(f"{key} {value}" for key, value in first.value.items())[:200]
        what = f"{path} is the journal of another task or model"
        raise CircuitlapseError(what, got=got, fix="Use another --out")
    for line in rest:
        if {key: type(value) for key, value in line.value.items()} != {"request": int, "text": str}:
            raise CircuitlapseError(f"{path}, {line.place} is no reply", fix="Use another --out")
    return [(line.value["request"], line.value["text"]) for line in rest]


def _line(value: dict) -> bytes:
    return json.dumps(value).encode() + b"\n"


def write_items(
    server: Server,
    journal: Path,
    task: WrittenTask = "ioi3",
    n: int = 100,
    *,
    batch: int = 10,
    concurrency: int = 8,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listen: Callable[[Sorted], None] = lambda found: None,
) -> Sorted:
    """Have a server write items until there are ``n`` good ones, balanced over list positions.

    Every reply is in the journal before it is read. A later call with the same journal, also one
    with a larger ``n``, asks only for what is missing. ``concurrency`` requests of ``batch`` items
    are sent at a time. With a ``tokenizer``, items whose names it splits are rejected. ``listen``
    is called after every reply.

    Raises:
        CircuitlapseError: If the server rejects a request, fails for good, or sends too few good
            items, with the counts by reason. The journal keeps the replies.
    """
    if n < 1 or batch < 1:
        raise CircuitlapseError("the numbers of items must be at least 1", got=f"{n} and {batch}")
    missing = [len(range(position, n, LISTED[task])) for position in range(LISTED[task])]
    found = Sorted(task, tokenizer, missing)
    with _open_journal(journal, {"task": task, "model": server.model}) as replies:
        writer = _Writer(server, journal, found, missing, batch, listen)
        for number, text in replies:
            writer.add(number, text)
        listen(found)
        if any(missing):
            asyncio.run(writer.run(concurrency))
    return found


@dataclass
class _Writer:
    """Asks for items until none is missing. The journal's order decides which are kept."""

    server: Server
    journal: Path
    found: Sorted
    missing: list[int]
    batch: int
    listen: Callable[[Sorted], None]
    pending: list[Request] = field(default_factory=list)
    number: int = 0
    useless: int = 0
    failed: int = 0

    def add(self, number: int, reply: str) -> None:
        """Add the items in a reply to the request of that number."""
        n, self.number = len(self.found.items), max(self.number, number + 1)
        for i, raw in enumerate(items_in(reply), 1):
            # Escapes in a reply's JSON may have hidden the key from the journal.
            clean = json.loads(self.server.without_key(json.dumps(raw)))
            place = f"request {number + 1}, item {i}"
            self.found.add(clean["prompt"], clean["recipient"], clean, place)
        self.useless = self.useless + 1 if len(self.found.items) == n else 0
        self.found.replies += 1

    async def run(self, concurrency: int) -> None:
        """Ask until nothing is missing."""
        self.useless = 0  # what an earlier start had does not end this one
        async with self.server.client:
            await asyncio.gather(*(self._ask() for _ in range(concurrency)))

    async def _ask(self) -> None:
        while request := self._next():
            self.pending.append(request)
            try:
                text = await self.server.ask(request)
            except FailedError as error:
                self.failed += 1
                if self.failed >= _FAILED:
                    why = f"{self.failed} requests in a row failed, the last with {error}"
                    raise self._too_few(why) from None
                continue
            finally:
                self.pending.remove(request)
            # Nothing is awaited from here on, so that no cancellation can lose the reply.
            self.add(request.number, self._record(request.number, text))
            self.failed = 0
            self.listen(self.found)
            if self.useless >= _USELESS and any(self.missing):
                raise self._too_few(f"{self.useless} replies in a row had no new item")

    def _record(self, number: int, reply: str) -> str:
        # Half a surrogate pair is valid in JSON's escapes but is no character.
        text = reply[:_LONGEST].encode("utf-8", "replace").decode()
        with self.journal.open("ab") as stream:
            stream.write(_line({"request": number, "text": text}))
            stream.flush()
            os.fsync(stream.fileno())
        return text

    def _next(self) -> Request | None:
        """Return a request for the list position that needs most, pending requests subtracted."""
        needed = self.missing.copy()
        for request in self.pending:
            needed[request.position] -= request.size
        most = max(needed)
        if most <= 0:
            return None
        self.number += 1
        size = min(self.batch, most)
        return Request(self.number - 1, self.found.task, size, needed.index(most))

    def _too_few(self, why: str) -> CircuitlapseError:
        n = len(self.found.items)
        got = f"{n} of {n + sum(self.missing)} items from {self.found.replies} replies"
        if counts := self.found.counts():
            got += "; rejected: " + ", ".join(f"{why} {count}" for why, count in counts.items())
        elif not n:
            got += "; no reply held items in JSON"
        fix = f"Try another --model, or the same command later: {self.journal} keeps replies"
        return CircuitlapseError(f"there are too few good items: {why}", got=got, fix=fix)

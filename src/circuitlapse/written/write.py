"""Are there as many good items as are wanted, the recipient equally often at each place?"""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.written.journal import Journal, Reply, open_journal
from circuitlapse.written.recipient import LISTED, WrittenTask
from circuitlapse.written.request import Request, items_in
from circuitlapse.written.server import Client, FailedError, Server
from circuitlapse.written.sort import Sorted, Sorter

_BARREN, _FAILED = 10, 4  # replies without a wanted item, or failed requests, in a row that end it


class Progress(NamedTuple):
    """Good items, replies (earlier starts included) and rejects so far."""

    good: int
    replies: int
    rejected: int


class Written(NamedTuple):
    """Items and rejects, good items beyond what their place needs, and the number of replies."""

    sorted: Sorted
    surplus: int
    replies: int


def write_items(
    server: Server,
    journal: Path,
    task: WrittenTask = "ioi3",
    n: int = 100,
    *,
    batch: int = 10,
    tokenizer: PreTrainedTokenizerBase | None = None,
    listen: Callable[[Progress], None] = lambda progress: None,
) -> Written:
    """Have a server write items until there are ``n`` good ones, balanced over the list's places.

    Every reply is in the journal before it is read. A later call with the same journal, also one
    with a larger ``n``, asks only for what is missing. ``batch`` items are asked for in a request.
    With a ``tokenizer``, items whose names it splits are rejected. ``listen`` is called after every
    reply.

    Raises:
        CircuitlapseError: If the server refuses, fails for good, or sends too little that can be
            used, with the counts by reason. The journal keeps the replies.
    """
    if n < 1 or batch < 1:
        raise CircuitlapseError("the numbers of items must be at least 1", got=f"{n} and {batch}")
    with open_journal(journal, {"task": task, "model": server.model}) as opened:
        found = _Collected(server, opened, Sorter(task, tokenizer, fields=True), n, batch)
        found.listen = listen
        for reply in opened.replies:
            found.add(reply)
        listen(found.progress)
        if any(found.missing):
            asyncio.run(found.collect())
        rejects, surplus = found.sorter.sorted.rejects, found.sorter.sorted.items
        return Written(Sorted(found.items, rejects), len(surplus) - n, len(opened.replies))


class _Collected:
    """The items of the replies, read in the journal's order, which alone decides them."""

    listen: Callable[[Progress], None]

    def __init__(
        self, server: Server, journal: Journal, sorter: Sorter, n: int, batch: int
    ) -> None:
        self.server, self.journal, self.sorter, self.batch = server, journal, sorter, batch
        places = LISTED[sorter.task]
        self.missing = [n // places + (place < n % places) for place in range(places)]
        self.items: list[Item] = []
        self.number = 1 + max((reply.request for reply in journal.replies), default=-1)
        self.barren = self.failed = 0

    @property
    def progress(self) -> Progress:
        rejected = len(self.sorter.sorted.rejects)
        return Progress(len(self.items), len(self.journal.replies), rejected)

    def add(self, reply: Reply) -> bool:
        """Read a reply's items and say whether any of them was wanted."""
        before = len(self.items)
        for i, raw in enumerate(items_in(reply.text), 1):
            # Escapes in a reply's JSON may have hidden the key from the journal.
            clean = json.loads(self.server.without_key(json.dumps(raw)))
            place = f"request {reply.request + 1}, item {i}"
            item = self.sorter.take(clean["prompt"], clean["recipient"], clean, place)
            position = item.names.index(item.answer.strip()) if item else 0
            if item and self.missing[position]:
                self.missing[position] -= 1
                self.items.append(item)
        return len(self.items) > before

    async def collect(self) -> None:
        """Send requests until nothing is missing, or there is no hope."""
        pending: dict[asyncio.Task[None], Request] = {}
        client = Client(self.server)
        try:
            while any(self.missing):
                while len(pending) < self.server.concurrency:
                    request = self._next(list(pending.values()))
                    if request is None:
                        break
                    pending[asyncio.create_task(self._ask(client, request))] = request
                done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del pending[task]
                for error in filter(None, [task.exception() for task in done]):
                    raise error
                if self.barren >= _BARREN and any(self.missing):
                    raise self._hopeless(f"{self.barren} replies in a row had no new item")
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            await client.openai.close()

    def _next(self, pending: list[Request]) -> Request | None:
        """Return a request for the place that needs most beyond the pending ones, if any does."""
        needed = self.missing.copy()
        for request in pending:
            needed[request.position] -= request.size
        if max(needed) <= 0:
            return None
        self.number += 1
        size = min(self.batch, max(needed))
        return Request(self.number - 1, self.sorter.task, size, needed.index(max(needed)))

    async def _ask(self, client: Client, request: Request) -> None:
        try:
            text = await client.ask(request)
        except FailedError as error:
            self.failed += 1
            if self.failed < _FAILED:
                return
            why = f"{self.failed} requests in a row failed, the last with {error}"
            raise self._hopeless(why) from None
        # Nothing is awaited from here on, so that no cancellation can lose the reply.
        wanted = self.add(self.journal.add(request.number, text))
        self.failed, self.barren = 0, 0 if wanted else self.barren + 1
        self.listen(self.progress)

    def _hopeless(self, why: str) -> CircuitlapseError:
        counts = self.sorter.sorted.counts()
        n, replies = len(self.items) + sum(self.missing), len(self.journal.replies)
        held = f"{len(self.items)} of {n} items from {replies} replies"
        if counts:
            held += "; rejected: " + ", ".join(f"{why} {count}" for why, count in counts.items())
        elif not self.items:
            held += "; no reply held items in JSON"
        fix = f"Try another model, or the same command later: {self.journal.path} keeps the replies"
        return CircuitlapseError(f"too little that can be used: {why} ({held})", fix=fix)

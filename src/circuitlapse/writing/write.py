"""Collect as many good items as are wanted, the answer equally often at each place of the list."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.written.judge import LISTED, WrittenTask
from circuitlapse.tasks.written.reason import ItemError
from circuitlapse.tasks.written.sorting import Reject, Sorted, Sorter
from circuitlapse.writing.journal import Journal, Reply, open_journal
from circuitlapse.writing.server import Client, FailedError, Server
from circuitlapse.writing.wording import Ask, items_in

_BARREN, _FAILED = 10, 4  # replies without gain, or failed requests, in a row that end it
_MOST = 5  # times as many requests as would do if every item were good, and some more
_SOME = 20


@dataclass(frozen=True)
class Progress:
    """How far the writing is.

    Attributes:
        good: Items that are in, of ``n``.
        n: Items wanted.
        replies: Replies so far, those of earlier starts included.
        rejected: Items that cannot be used.
    """

    good: int
    n: int
    replies: int
    rejected: int


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        sorted: The items and rejects.
        surplus: Good items whose answer's place was full already; more are wanted before they
            count, and they stay in the journal.
        replies: How many replies they come from.
    """

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
    listen: Listener | None = None,
) -> Written:
    """Have a server write items until ``n`` good ones are there, balanced over the answer's place.

    Every reply is in the journal before it is read. Killed at any moment and called again, it goes
    on with what the journal has and asks for what lacks; a larger ``n`` goes on too.

    Args:
        server: Whom to ask, and how.
        journal: File for the replies.
        task: The task.
        n: How many good items are wanted, at least 1.
        batch: How many to ask for in one request.
        tokenizer: See :class:`circuitlapse.tasks.written.sorting.Sorter`.
        listen: Called after every reply.

    Raises:
        CircuitlapseError: If the server refuses, fails for good, or sends too little that can be
            used, with the counts by reason; the journal keeps what there is.
    """
    if n < 1 or batch < 1:
        raise CircuitlapseError("the numbers of items must be at least 1", got=f"{n} and {batch}")
    with open_journal(journal, {"task": task, "model": server.model}) as opened:
        collected = _Collected(task, n, tokenizer)
        for reply in opened.replies:
            collected.add(reply)
        collected.tell(listen)
        if not collected.done:
            asyncio.run(_collect(server, opened, collected, batch, listen))
        return Written(
            Sorted(collected.items, collected.rejects), collected.surplus, len(opened.replies)
        )


class _Collected:
    """What the replies hold, read in their order, so that the journal alone decides it."""

    def __init__(self, task: WrittenTask, n: int, tokenizer: PreTrainedTokenizerBase | None):
        self.task: WrittenTask = task
        self.n = n
        self.sorter = Sorter(task, tokenizer)
        places = LISTED[task]
        self.lacking = [n // places + (place < n % places) for place in range(places)]
        self.items: list[Item] = []
        self.rejects: list[Reject] = []
        self.surplus = self.replies = 0

    @property
    def done(self) -> bool:
        return not any(self.lacking)

    def add(self, reply: Reply) -> int:
        """Read a reply's items and return how many of them were wanted."""
        before = len(self.items)
        self.replies += 1
        for i, (prompt, completion) in enumerate(items_in(reply.text), 1):
            try:
                item = self.sorter.take(prompt, completion)
            except ItemError as error:
                place = f"request {reply.request + 1}, item {i}"
                raw = {"prompt": prompt, "completion": completion}
                self.rejects.append(Reject(place, error.reason, error.detail, raw))
                continue
            answer = item.names.index(item.answer.strip())
            if self.lacking[answer]:
                self.lacking[answer] -= 1
                self.items.append(item)
            else:
                self.surplus += 1
        return len(self.items) - before

    @property
    def share(self) -> float:
        """The share of items that counted so far, for how many to ask for; at least a tenth."""
        seen = len(self.items) + self.surplus + len(self.rejects)
        return max((len(self.items) + 1) / (seen + 1), 0.1)

    def tell(self, listen: Listener | None) -> None:
        if listen is not None:
            listen(Progress(len(self.items), self.n, self.replies, len(self.rejects)))

    def summary(self) -> str:
        """Say in words what the replies held."""
        counts = Sorted(self.items, self.rejects).counts()
        reasons = [f"{reason} {count}" for reason, count in counts.items()]
        parts = [f"{len(self.items)} of {self.n} items from {self.replies} replies"]
        parts += [f"rejected: {', '.join(reasons)}"] if reasons else []
        parts += [f"right, but the answer's place is full: {self.surplus}"] if self.surplus else []
        if not reasons and not self.items:
            parts.append("no reply held items in JSON")
        return "; ".join(parts)


async def _collect(
    server: Server, journal: Journal, found: _Collected, batch: int, listen: Listener | None
) -> None:
    """Keep requests under way until nothing lacks, or it is hopeless."""
    number = 1 + max((reply.request for reply in journal.replies), default=-1)
    budget = _SOME + _MOST * -(-sum(found.lacking) // batch)
    pending: dict[asyncio.Task[str], Ask] = {}
    barren = failed = 0
    async with Client(server) as client:
        try:
            while not found.done:
                while budget and len(pending) < server.concurrency:
                    ask = _next(number, found, batch, list(pending.values()))
                    if ask is None:
                        break
                    pending[asyncio.create_task(client.ask(ask))] = ask
                    number, budget = number + 1, budget - 1
                if not pending:
                    raise _hopeless(found, journal, "the requests that are allowed are used up")
                finished, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                problem: Exception | None = None
                for task in finished:
                    ask = pending.pop(task)
                    try:
                        gain = found.add(journal.add(ask.number, task.result()))
                    except FailedError as error:
                        failed, problem = failed + 1, error
                    except CircuitlapseError as error:
                        problem = error
                    else:
                        failed, barren = 0, 0 if gain else barren + 1
                        found.tell(listen)
                if isinstance(problem, CircuitlapseError):
                    raise problem
                if failed >= _FAILED and problem is not None:
                    raise _hopeless(
                        found, journal, f"{failed} requests in a row failed, at last with {problem}"
                    )
                if barren >= _BARREN and not found.done:
                    raise _hopeless(found, journal, f"{barren} replies in a row brought nothing")
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)


def _next(number: int, found: _Collected, batch: int, pending: list[Ask]) -> Ask | None:
    """Return a request for the place that lacks most beyond what is under way, if any does."""
    lacking = [wanted / found.share for wanted in found.lacking]
    for ask in pending:
        lacking[ask.position] -= ask.size
    position = max(range(len(lacking)), key=lambda place: lacking[place])
    if lacking[position] <= 0:
        return None
    return Ask(number, found.task, min(batch, math.ceil(lacking[position])), position)


def _hopeless(found: _Collected, journal: Journal, why: str) -> CircuitlapseError:
    return CircuitlapseError(
        f"the server gives too little that can be used: {why} ({found.summary()})",
        fix=f"Try another model. {journal.path} keeps the replies: the same command goes on there",
    )

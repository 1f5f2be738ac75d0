"""Prompts worked on in groups: alike ones together, several at once, halved where memory runs out.

A processor's threads are worth most with a group each: a product that is shared out among them
waits for the slowest, and much that lies between two products is not shared out at all.

How much is worked on at once: what a device has room for, and what it is fast with.

A processor is fastest with little at once, near its cache, so that its budget is fixed; a GPU needs
much to be busy, and its budget is half of what is free on it. A batch that does not fit after all
is halved: see :func:`circuitlapse.models.engine.batches.each_group`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from typing import TypeVar

import torch
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.shapes import Int

T = TypeVar("T")

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")

_MOST_GROUPS = 4  # at once, so that memory has a bound whatever the processor
_LEAST_TOKENS = 128  # of a group at once with others, as each reads all weights


def each_group(
    work: Callable[[Int[Tensor, " batch"]], T],
    widths: Int[Tensor, " prompts"],
    starts: Int[Tensor, " prompts"],
    most: Callable[[int, int], int],
    batch_size: int | None = None,
    keep: Callable[[Int[Tensor, " batch"], T], None] | None = None,
    *,
    side_by_side: bool = True,
) -> None:
    """Work on rows in groups of :func:`alike`, which see.

    Where memory runs out all the same, a group is done again in two halves: the work may be called
    again with rows that it had before, and must then leave nothing else behind than the first time.

    Args:
        work: Called with each group.
        widths: Tokens of each row.
        starts: Tokens before them.
        most: How many rows a group may have; see :func:`alike`.
        batch_size: So many rows at once instead.
        keep: Called with a group's rows and what the work returned for it, in the order of the
            groups, of which those that had to be halved come last. Given this, a processor does
            several groups at once, in threads which share torch's: the work must then leave nothing
            behind but what it returns.
        side_by_side: Whether to do so.

    Raises:
        CircuitlapseError: If ``batch_size`` is below 1, or a single row needs more memory than
            there is.
    """
    if batch_size is not None and batch_size < 1:
        raise CircuitlapseError("batch_size must be at least 1", got=batch_size)
    tokens, n = int(widths.sum()), 1
    if keep is not None and side_by_side and widths.device.type == "cpu":
        n = max(1, min(torch.get_num_threads(), _MOST_GROUPS, tokens // _LEAST_TOKENS))
    if batch_size is not None:
        n = min(n, batch_size)
    elif n > 1 and most(int(widths.max()), int(starts.max())) < 1:
        n = 1  # a row alone is more than a group may have: several at once would be too much

    def limit(width: int, before: int) -> int:
        rows = most(width, before) if batch_size is None else batch_size // n
        if n == 1:
            return rows
        # About as many groups as threads, or a multiple: a thread without one would only wait.
        each = ceil(tokens / (n * width))
        return ceil(each / ceil(each / max(1, rows)))

    todo = list(alike(widths, starts, limit))
    if keep is not None and n > 1 and len(todo) > 1:
        todo = _side_by_side(work, todo, keep, min(n, len(todo)))
    todo.reverse()
    while todo:
        rows = todo.pop()
        found = _within_memory(work, rows)
        if found:
            if keep is not None:
                keep(rows, found[0])
            continue
        if len(rows) == 1:
            raise CircuitlapseError(
                "one prompt alone needs more memory than there is",
                got=f"{int(widths[rows[0]])} tokens to work on",
                fix="Use shorter prompts, a smaller dtype or a machine with more memory",
            )
        half = len(rows) // 2
        todo += [rows[half:], rows[:half]]


def _side_by_side(
    work: Callable[[Tensor], T], groups: list[Tensor], keep: Callable[[Tensor, T], None], n: int
) -> list[Tensor]:
    """Work on groups in n threads at once; return those that did not fit into memory."""
    threads, gradients, failed = torch.get_num_threads(), torch.is_grad_enabled(), list[Tensor]()

    def one(rows: Tensor) -> list[T]:
        with torch.set_grad_enabled(gradients):  # each thread begins with them
            return _within_memory(work, rows)

    pool = ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(threads // n,))
    try:
        for rows, found in zip(groups, pool.map(one, groups), strict=True):
            if found:
                keep(rows, found[0])
            else:
                failed.append(rows)
    finally:
        try:
            pool.shutdown(cancel_futures=True)
        finally:
            # What was said last holds for threads that begin later, whichever thread said it.
            torch.set_num_threads(threads)
    return failed


def _within_memory(work: Callable[[Tensor], T], rows: Tensor) -> list[T]:
    """Do the work and return what it returned; nothing where memory ran out."""
    try:
        return [work(rows)]
    except (torch.OutOfMemoryError, MemoryError):
        return []
    except RuntimeError as error:
        # The CPU's allocator has no exception of its own, nor have cuBLAS's workspaces.
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        return []


def alike(
    widths: Int[Tensor, " prompts"],
    starts: Int[Tensor, " prompts"],
    most: Callable[[int, int], int],
) -> Iterator[Int[Tensor, " batch"]]:
    """Group rows of like width and start, so that little of a batch is padding.

    A group has at most as many rows as ``most`` says for its width and its largest start, and at
    least one. Even rows come first in it.
    """
    wide, first = widths.tolist(), starts.tolist()
    order = sorted(range(len(wide)), key=lambda row: (wide[row], first[row]))
    while order:
        taken, before = 1, first[order[0]]
        while taken < len(order):
            before = max(before, first[order[taken]])
            if taken >= most(wide[order[taken]], before):
                break
            taken += 1
        rows, order = sorted(order[:taken], key=lambda row: row % 2), order[taken:]
        yield torch.tensor(rows, device=starts.device)


PROCESSOR_BYTES = 256 * 2**20
"""What the activations of one batch may take on a processor; at most four are worked on at once."""

PROCESSOR_TOKENS = 1024
"""More in a batch gain nothing on a processor, and small batches waste less on padding."""

_WIDER = 128  # times what a processor likes to have at once


def max_batch_rows(
    device: torch.device, bytes_per_token: int, bytes_before: int = 0
) -> Callable[[int, int], int]:
    """Say how many rows of a batch fit, given its width in tokens and how many are before them.

    Args:
        device: Where the batch is.
        bytes_per_token: What a token of the batch takes, be it padding.
        bytes_before: What is kept of a token before it.
    """
    budget = PROCESSOR_BYTES
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        budget = (torch.cuda.mem_get_info(device)[0] + unused) // 2

    def rows(width: int, before: int) -> int:
        most = budget // (width * bytes_per_token + before * bytes_before)
        return most if device.type == "cuda" else min(most, PROCESSOR_TOKENS // width)

    return rows


def max_variants(device: torch.device, floats: int, most: int) -> int:
    """How many pieces of so many numbers to work on at once: ``most`` numbers on a processor."""
    most *= 1 if device.type == "cpu" else _WIDER
    return max(1, most // max(1, floats))

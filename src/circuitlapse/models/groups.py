"""Prompts worked on in groups: alike ones together, several at once, halved where memory runs out.

A processor's threads are worth most with a group each: a product that is shared out among them
waits for the slowest, and much that lies between two products is not shared out at all.
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
        batch_size: Rows of a group, instead.
        keep: Called with a group's rows and what the work returned for it, in the order of the
            groups. Given this, a processor does several groups at once, in threads which share
            torch's: the work must then leave nothing behind but what it returns.
        side_by_side: Whether to do so.

    Raises:
        CircuitlapseError: If ``batch_size`` is below 1, or a single row needs more memory than
            there is.
    """
    tokens, threads = int(widths.sum()), torch.get_num_threads()
    n = max(1, min(threads, _MOST_GROUPS, len(widths), tokens // _LEAST_TOKENS))
    if keep is None or not side_by_side or widths.device.type != "cpu":
        n = 1

    def evenly(width: int, before: int) -> int:
        if batch_size is not None or n == 1:
            return batch_size or most(width, before)
        # As many groups as threads, or a multiple of it: none waits for the last one.
        each = ceil(tokens / (n * width))
        return ceil(each / ceil(each / max(1, most(width, before))))

    if batch_size is not None and batch_size < 1:
        raise CircuitlapseError("batch_size must be at least 1", got=batch_size)
    groups = list(alike(widths, starts, evenly))
    todo = groups if keep is None or n == 1 else _side_by_side(work, groups, keep, n, threads // n)
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
    work: Callable[[Tensor], T],
    groups: list[Tensor],
    keep: Callable[[Tensor, T], None],
    n: int,
    threads_each: int,
) -> list[Tensor]:
    """Work on groups in n threads at once; return those that did not fit into memory."""
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()

    def one(rows: Tensor) -> list[T]:
        with torch.set_grad_enabled(gradients):  # each thread begins with them
            return _within_memory(work, rows)

    failed = []
    pool = ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(threads_each,))
    try:
        for rows, found in zip(groups, pool.map(one, groups), strict=True):
            if found:
                keep(rows, found[0])
            else:
                failed.append(rows)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that begin later take the number said last
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

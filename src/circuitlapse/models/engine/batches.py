"""Batches of prompts: rows of similar length together, as many as fit the device's memory.

A CPU is fastest with small batches that fit its cache, one per thread, so its budget is fixed. A
GPU needs large batches; its budget is half of its free memory. The batch size is halved after an
out-of-memory error.
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

_MOST_GROUPS = 4  # in parallel, which bounds memory on any processor
_LEAST_TOKENS = 128  # of each group in parallel, as each reads all weights


def each_group(
    work: Callable[[Int[Tensor, " batch"]], T],
    widths: Int[Tensor, " prompts"],
    starts: Int[Tensor, " prompts"],
    most: Callable[[int, int], int],
    batch_size: int | None = None,
    keep: Callable[[Int[Tensor, " batch"], T], None] | None = None,
    *,
    parallel: bool = True,
) -> None:
    """Call ``work`` on groups of rows of similar length; see :func:`alike`.

    After an out-of-memory error a group is halved and ``work`` is called again with the same rows,
    so ``work`` must have no other effect than its return value. ``keep`` gets a group's rows and
    result; with ``keep``, a CPU runs several groups in threads unless ``parallel`` is false.

    Raises:
        CircuitlapseError: If ``batch_size`` is below 1, or a single row does not fit into memory.
    """
    if batch_size is not None and batch_size < 1:
        raise CircuitlapseError("batch_size must be at least 1", got=batch_size)
    tokens, n = int(widths.sum()), 1
    if keep is not None and parallel and widths.device.type == "cpu":
        n = max(1, min(torch.get_num_threads(), _MOST_GROUPS, tokens // _LEAST_TOKENS))
    if batch_size is not None:
        n = min(n, batch_size)
    elif n > 1 and most(int(widths.max()), int(starts.max())) < 1:
        n = 1  # a single row exceeds the memory of a group, so several would be too much

    def limit(width: int, before: int) -> int:
        rows = most(width, before) if batch_size is None else batch_size // n
        if n == 1:
            return rows
        # As many groups as threads, or a multiple, so that no thread waits.
        each = ceil(tokens / (n * width))
        return ceil(each / ceil(each / max(1, rows)))

    todo = list(alike(widths, starts, limit))
    if keep is not None and n > 1 and len(todo) > 1:
        todo = _in_parallel(work, todo, keep, min(n, len(todo)))
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
                got=f"{int(widths[rows[0]])} tokens",
                fix="Use shorter prompts, a smaller dtype or a machine with more memory",
            )
        half = len(rows) // 2
        todo += [rows[half:], rows[:half]]


def _in_parallel(
    work: Callable[[Tensor], T], groups: list[Tensor], keep: Callable[[Tensor, T], None], n: int
) -> list[Tensor]:
    """Run groups in n threads; return those that did not fit into memory."""
    threads, gradients, failed = torch.get_num_threads(), torch.is_grad_enabled(), list[Tensor]()

    def one(rows: Tensor) -> list[T]:
        with torch.set_grad_enabled(gradients):  # new threads have gradients on
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
            # The last call also sets the number for threads that start later.
            torch.set_num_threads(threads)
    return failed


def _within_memory(work: Callable[[Tensor], T], rows: Tensor) -> list[T]:
    """Return the result in a list, which is empty after an out-of-memory error."""
    try:
        return [work(rows)]
    except (torch.OutOfMemoryError, MemoryError):
        return []
    except RuntimeError as error:
        # The CPU's allocator and cuBLAS's workspaces raise plain RuntimeErrors.
        if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
            raise
        return []


def alike(
    widths: Int[Tensor, " prompts"],
    starts: Int[Tensor, " prompts"],
    most: Callable[[int, int], int],
) -> Iterator[Int[Tensor, " batch"]]:
    """Group rows of similar width and start, to limit padding.

    A group has at most ``most(width, largest start)`` rows and at least one. Even rows come first.
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


PROCESSOR_BYTES = 256 * 2**20  # of one batch's activations on a CPU, of up to four in parallel
PROCESSOR_TOKENS = 1024  # larger batches are no faster on a CPU and waste more on padding
_GPU_FACTOR = 128  # a GPU's batches of variants, compared with a CPU's


def max_batch_rows(
    device: torch.device, bytes_per_token: int, bytes_before: int = 0
) -> Callable[[int, int], int]:
    """Return a function from width and prefix length, in tokens, to the number of rows that fit."""
    budget = PROCESSOR_BYTES
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        budget = (torch.cuda.mem_get_info(device)[0] + unused) // 2

    def rows(width: int, before: int) -> int:
        most = budget // (width * bytes_per_token + before * bytes_before)
        return most if device.type == "cuda" else min(most, PROCESSOR_TOKENS // width)

    return rows


def max_variants(device: torch.device, floats: int, most: int) -> int:
    """Return how many variants run at once; on a CPU they hold ``most`` numbers."""
    most *= 1 if device.type == "cpu" else _GPU_FACTOR
    return max(1, most // max(1, floats))

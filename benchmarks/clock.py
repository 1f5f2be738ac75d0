"""Seconds, memory and the machine's own speed, on a machine whose speed changes by the minute.

Whatever is timed alternates with a reference in the same process, and ratios are taken between
neighbours in time. Memory is the high-water mark of the resident set, reset just before the work.
"""

import gc
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from circuitlapse.pipeline.run.execute import give_back

Work = Callable[[], object]
_GEMM = 1536  # rows and columns: large enough for the peak, small enough for 10 ms or so


@dataclass(frozen=True)
class Timing:
    """What one piece of work took.

    Attributes:
        seconds: Median, or the sum over its parts.
        reference: Median seconds of the reference work.
        ratio: Seconds over those of the reference just before and after, median or sum likewise.
        gflops: Median speed of a square single-precision matrix product.
        capacity: GFLOP of matrix products that would have fitted into the same time.
        repeats: How often it was timed.
        peak_bytes: Highest resident set while it ran for the first time.
        base_bytes: Resident set just before that.
        speedup: Median ratio of one thread's to several threads' seconds; None if not measured.
        product_speedup: The same of the matrix product, which is what the machine itself allows.
    """

    seconds: float
    reference: float
    ratio: float
    gflops: float
    capacity: float
    repeats: int
    peak_bytes: int
    base_bytes: int
    speedup: float | None = None
    product_speedup: float | None = None


def seconds_of(work: Work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def gemm_gflops() -> float:
    """Speed of the library's matrix product: the most that any of the work could reach."""
    a = torch.ones(_GEMM, _GEMM)
    return 2 * _GEMM**3 / min(seconds_of(lambda: a @ a) for _ in range(3)) / 1e9


def peak_memory(work: Work) -> tuple[int, int]:
    """Run the work once; return the peak of the resident set and its size before, in bytes."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():  # not Linux: the peak since the process began
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, before

    def read(field: str) -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    gc.collect()
    give_back()
    before = read("VmRSS:")
    reset.write_text("5")  # sets the high-water mark back to the present size
    work()
    return read("VmHWM:"), before


def alternate(works: Iterable[Work], reference: Work) -> list[tuple[float, float, float]]:
    """Time each work between two runs of the reference: (seconds, reference, GFLOP/s) each."""
    reference()
    after, speed_after = seconds_of(reference), gemm_gflops()
    rows = []
    for work in works:
        before, speed_before = after, speed_after
        taken = seconds_of(work)
        speed_after, after = gemm_gflops(), seconds_of(reference)
        rows.append((taken, (before + after) / 2, (speed_before + speed_after) / 2))
    return rows


def measure(
    work: Work, reference: Work, *, seconds: float = 10.0, least: int = 3, threads: int = 0
) -> Timing:
    """Measure the work beside a reference.

    Args:
        work: What is measured.
        reference: What it is compared with.
        seconds: Repeat for about so long, nine times at most.
        least: But at least so often.
        threads: Compare one thread with so many; 0 leaves that out.
    """
    begun = time.perf_counter()
    peak, base = peak_memory(work)
    first = time.perf_counter() - begun
    repeats = max(least, min(9, math.ceil(seconds / first)))
    taken, references, gflops = zip(*alternate([work] * repeats, reference), strict=True)
    speedup, product_speedup = _speedups(work, threads, repeats) if threads else (None, None)
    return Timing(
        seconds=statistics.median(taken),
        reference=statistics.median(references),
        ratio=statistics.median(a / b for a, b in zip(taken, references, strict=True)),
        gflops=statistics.median(gflops),
        capacity=statistics.median(a * b for a, b in zip(taken, gflops, strict=True)),
        repeats=repeats,
        peak_bytes=peak,
        base_bytes=base,
        speedup=speedup,
        product_speedup=product_speedup,
    )


def measure_parts(parts: list[Work], sample: Work, reference: Work) -> Timing:
    """Measure long work once, part by part, with the reference between the parts.

    Args:
        parts: All of the work.
        sample: Needs as much memory as the largest part.
        reference: What the parts are compared with.
    """
    peak, base = peak_memory(sample)
    taken, references, gflops = zip(*alternate(parts, reference), strict=True)
    return Timing(
        seconds=sum(taken),
        reference=statistics.median(references),
        ratio=sum(a / b for a, b in zip(taken, references, strict=True)),
        gflops=statistics.median(gflops),
        capacity=sum(a * b for a, b in zip(taken, gflops, strict=True)),
        repeats=1,
        peak_bytes=peak,
        base_bytes=base,
    )


def _speedups(work: Work, threads: int, repeats: int) -> tuple[float, float]:
    """How many times as fast the work, and the matrix product, are on several threads."""
    ratios, of_product = [], []
    for _ in range(repeats):
        torch.set_num_threads(threads)
        several, product = seconds_of(work), gemm_gflops()
        torch.set_num_threads(1)
        of_product.append(product / gemm_gflops())
        ratios.append(seconds_of(work) / several)
    return statistics.median(ratios), statistics.median(of_product)

"""How much is worked on at once: what a device has room for, and what it is fast with.

A processor is fastest with little at once, near its cache, so that its budget is fixed; a GPU needs
much to be busy, and its budget is half of what is free on it. A batch that does not fit after all
is halved: see :func:`circuitlapse.models.groups.each_group`.
"""

from collections.abc import Callable

import torch

PROCESSOR_BYTES = 256 * 2**20
"""What the activations of one batch may take on a processor; at most four are worked on at once."""

PROCESSOR_TOKENS = 1024
"""More in a batch gain nothing on a processor, and small batches waste less on padding."""

_WIDER = 128  # times what a processor likes to have at once


def most_rows(
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


def some_at_once(device: torch.device, floats: int, most: int) -> int:
    """How many pieces of so many numbers to work on at once: ``most`` numbers on a processor."""
    most *= 1 if device.type == "cpu" else _WIDER
    return max(1, most // max(1, floats))

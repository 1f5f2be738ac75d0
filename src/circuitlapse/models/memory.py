"""How much is worked on at once: what a device has room for, and what it is fast with.

A processor is fastest with little at once, near its cache, so that its budget is fixed; a GPU needs
much to be busy, and its budget is half of what is free on it. A batch that does not fit after all
is halved: see :func:`circuitlapse.models.prefix.each_group`.
"""

import torch

PROCESSOR_BYTES = 256 * 2**20
"""What the activations of one batch may take on a processor."""

PROCESSOR_TOKENS = 1024
"""More in a batch gain nothing on a processor, and small batches waste less on padding."""

_WIDER = 128  # times what a processor likes to have at once


def most_tokens(device: torch.device, bytes_per_token: int) -> int:
    """Tokens of a batch, padding included, where each takes so many bytes."""
    if device.type != "cuda":
        return min(PROCESSOR_TOKENS, PROCESSOR_BYTES // bytes_per_token)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free, _ = torch.cuda.mem_get_info(device)
    return (free + unused) // 2 // bytes_per_token


def some_at_once(device: torch.device, floats: int, most: int) -> int:
    """How many pieces of so many numbers to work on at once: ``most`` numbers on a processor."""
    most *= 1 if device.type == "cpu" else _WIDER
    return max(1, most // max(1, floats))

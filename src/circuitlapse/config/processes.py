"""What ``accelerate launch`` tells each of the processes that it starts."""

import os


def processes() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def joins() -> bool:
    """Whether this process only joins the trainings of the first."""
    return processes() > 1 and int(os.environ.get("RANK", "0")) > 0

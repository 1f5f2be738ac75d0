"""What a long run tells whoever watches: plain events, so that the library never prints."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Progress:
    """One event of a run.

    Attributes:
        kind: ``planned`` (``done`` jobs of ``total`` are there already), ``started``, ``advanced``
            (``done`` of ``total`` steps within the job), ``finished`` (``done`` jobs of ``total``)
            or ``note`` (``text`` is for the user).
        job: Name of the job, where the event is about one.
        done: See ``kind``.
        total: See ``kind``.
        text: A sentence, for notes.
    """

    kind: str
    job: str = ""
    done: int = 0
    total: int = 0
    text: str = ""


Listener = Callable[[Progress], None]


@runtime_checkable
class Advance(Protocol):
    """What a job calls as it goes on: ``done`` of its ``of`` steps, and a sentence for the user."""

    def __call__(self, done: int, of: int, note: str = "") -> None:
        """Report."""
        ...

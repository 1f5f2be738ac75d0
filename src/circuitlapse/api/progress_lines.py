"""Progress as plain lines, for logs, pipes and notebooks."""

import io
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

from circuitlapse.pipeline.job import Listener, Progress

ALL_THERE = "the run is finished: nothing to do"
EVERY = 5.0  # seconds from one line to the next
_SHOWN = 4  # running jobs in a line
_WAITS = 6  # before the first line if nothing is planned yet


class Lines:
    """A listener that prints the running jobs and their progress every few seconds.

    Notes are printed at once, everything else by a thread, as a job may take long without an event.
    """

    def __init__(self, stream: IO[str] | io.TextIOBase, every: float | None = None) -> None:
        """Set the stream and the seconds between lines."""
        self._stream, self._every = stream, every or EVERY
        self._started = time.monotonic()
        self._done: tuple[int, int] | None = None
        self._running: dict[str, str] = {}
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> "Lines":
        """Start to print."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Print a last line with the number of finished jobs, and stop."""
        self._end.set()
        self._thread.join()
        if self._done is not None and self._done[1]:
            self._say("{} of {} jobs are done".format(*self._done))

    def __call__(self, event: Progress) -> None:
        """Take an event."""
        with self._lock:
            match event.kind:
                case "planned" if event.done == event.total:
                    self._say(f"{ALL_THERE} ({event.total} jobs)")
                case "planned":
                    self._done = event.done, event.total
                case "started":
                    self._running[event.job] = event.job
                case "advanced":
                    far = f"{event.job}: {event.done} of {event.total}"
                    self._running[event.job] = ", ".join(filter(None, (far, event.text)))
                case "finished":
                    self._running.pop(event.job, None)
                    self._done = event.done, event.total
                case _:
                    self._say(f"note: {event.text}")

    def _tell(self) -> None:
        waits = 0
        while not self._end.wait(self._every):
            waits += 1
            with self._lock:
                # Invalid input ends before anything is planned, with only its error message.
                if self._done is not None or waits >= _WAITS:
                    self._say(self._status())

    def _status(self) -> str:
        doing = "; ".join(list(self._running.values())[:_SHOWN])
        counted = "[{}/{}] ".format(*self._done) if self._done is not None else ""
        return counted + (doing or "checking the directory")

    def _say(self, text: str) -> None:
        seconds = f"{time.monotonic() - self._started:6.1f} s"
        print(f"{seconds}  {text}", file=self._stream, flush=True)


def watched(progress: Listener | None) -> AbstractContextManager[Listener]:
    """Return the caller's listener; without one, lines in a notebook and nothing elsewhere."""
    if progress is None and in_notebook():
        return Lines(sys.stdout)
    return nullcontext(progress or (lambda event: None))


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")

"""The console for results and for progress: bars on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from circuitlapse.api.progress_lines import ALL_THERE, Lines
from circuitlapse.pipeline.job import Listener, Progress

_PLAIN_WIDTH = 120  # of tables in files and pipes


def console_of() -> Console:
    """Return standard output's console, with a fixed width if it is no terminal."""
    console = Console(markup=False)  # a directory ``s[red]`` would lose its brackets
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH, markup=False)


@contextmanager
def watch(console: Console) -> Iterator[Listener]:
    """Give a listener that shows a run's progress on the console."""
    if not console.is_terminal:
        with Lines(console.file) as lines:
            yield lines
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield _OnTerminal(bars)


class _OnTerminal:
    """A bar for the whole run, and one for each running job that reports its steps."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.whole: TaskID | None = None
        self.running: dict[str, TaskID] = {}

    def __call__(self, event: Progress) -> None:
        match event.kind:
            case "planned" if event.done == event.total:
                self.bars.console.print(f"{ALL_THERE} ({event.total} jobs)", highlight=False)
            case "planned":
                self.whole = self.bars.add_task("jobs", total=event.total, completed=event.done)
            case "started":
                self.running[event.job] = self.bars.add_task(event.job, total=None)
            case "advanced" if event.job in self.running:
                task = self.running[event.job]
                self.bars.update(task, completed=event.done, total=event.total)
            case "finished":
                self.bars.remove_task(self.running.pop(event.job))
                if self.whole is not None:
                    self.bars.update(self.whole, completed=event.done)
            case "note":
                self.bars.console.print(f"note: {event.text}", markup=False, highlight=False)
            case _:
                pass


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows the number of things that are done."""
    if not console.is_terminal:
        with Lines(console.file) as lines:
            yield lambda done, total: lines(Progress("advanced", what, done, total))
        return
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)

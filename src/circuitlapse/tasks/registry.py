"""Tasks by name: built-in tasks, and custom tasks by their path."""

from pathlib import Path

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.custom_task import import_task
from circuitlapse.tasks.task import Task


def get_task(name: str) -> Task:
    """Return a built-in task, or import one from a file or data set.

    Args:
        name: A built-in task, such as ``ioi3``; the path of a JSONL file or of a directory that
            ``datasets`` wrote; or a data set on the Hub, such as ``someone/something``.

    Raises:
        CircuitlapseError: If there is none, or its items are not valid.
    """
    if name in TASKS:
        return TASKS[name]
    path = Path(name).expanduser()
    if path.is_file() or path.is_dir() or (name.count("/") == 1 and not path.suffix):
        return import_task(name)
    if path.suffix in (".json", ".jsonl") or "/" in name:
        raise CircuitlapseError(f"there is no file {path}", fix="Give the path of a JSONL file")
    raise CircuitlapseError(
        "there is no such task",
        got=name,
        fix=f"Use one of {', '.join(TASKS)}, or the path of a JSONL file",
    )

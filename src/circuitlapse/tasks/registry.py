"""Tasks by name: those of the battery."""

from circuitlapse.errors import CircuitlapseError
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.task import Task


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        CircuitlapseError: If there is none.
    """
    if name not in TASKS:
        raise CircuitlapseError(
            "there is no such task", got=name, fix=f"Use one of {', '.join(TASKS)}"
        )
    return TASKS[name]

"""The battery: one file for each subject, and the tasks that these files declare.

A file here whose ``TASKS`` is a tuple of tasks is found by itself: adding a task takes no change
anywhere else.
"""

from importlib import import_module
from pkgutil import iter_modules

from circuitlapse.tasks.task import GeneratedTask


def _found() -> dict[str, GeneratedTask]:
    tasks: list[GeneratedTask] = []
    for module in iter_modules(__path__):
        tasks += import_module(f"{__name__}.{module.name}").TASKS
    return {task.name: task for task in sorted(tasks, key=lambda task: task.name)}


#: Every task of the battery by its name.
TASKS: dict[str, GeneratedTask] = _found()

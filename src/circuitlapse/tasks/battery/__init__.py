"""The battery: built-in tasks, one file per subject.

Each file's ``TASKS`` is a tuple of tasks; new files are found automatically.
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

"""Items that people or models wrote: which of them can be used, and why the others cannot."""

from circuitlapse.tasks.written.judge import LISTED, Reading, WrittenTask, judge
from circuitlapse.tasks.written.partners import to_item
from circuitlapse.tasks.written.reason import MEANINGS, ItemError, Reason
from circuitlapse.tasks.written.sorting import Reject, Sorted, Sorter, sort_items
from circuitlapse.tasks.written.tally import by_name, by_position, shortcuts

__all__ = [
    "LISTED",
    "MEANINGS",
    "ItemError",
    "Reading",
    "Reason",
    "Reject",
    "Sorted",
    "Sorter",
    "WrittenTask",
    "by_name",
    "by_position",
    "judge",
    "shortcuts",
    "sort_items",
    "to_item",
]

"""Items that people or models wrote: which of them can be used, and why the others cannot."""

from circuitlapse.tasks.written.judge import LISTED, Reading, WrittenTask, judge
from circuitlapse.tasks.written.reason import MEANINGS, ItemError, Reason

__all__ = ["LISTED", "MEANINGS", "ItemError", "Reading", "Reason", "WrittenTask", "judge"]

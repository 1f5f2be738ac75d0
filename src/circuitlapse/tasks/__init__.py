"""Tasks: families of prompts with one known answer, and the corruptions that circuits need.

They are generated from templates here rather than downloaded, so that splits can hold out name
pairs and templates, every prompt has corrupt partners of equal length, and each item is checked.
"""

from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.items import Item
from circuitlapse.tasks.metrics import logit_difference
from circuitlapse.tasks.pairs import PromptPairs
from circuitlapse.tasks.registry import get_task
from circuitlapse.tasks.splits import SPLITS
from circuitlapse.tasks.story import Change, Story
from circuitlapse.tasks.task import Task
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.validation import Candidates, determine_answer, validate

__all__ = [
    "SPLITS",
    "TASKS",
    "Candidates",
    "Change",
    "Item",
    "PromptPairs",
    "Story",
    "Task",
    "determine_answer",
    "get_task",
    "logit_difference",
    "tokenize",
    "validate",
]

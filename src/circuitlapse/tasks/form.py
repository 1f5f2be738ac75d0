"""How far apart in form two tasks are, from what they declare and how they are worded.

The distance is a sum of three counts, so that it can be worked out by hand:

- kinds of named positions that only one of the two has, a position's number left out: ``S1`` and
  ``S2`` are both of the kind ``S``;
- the difference of the numbers of people in a prompt;
- the share of the words of both that only one has (0 to 1), apart from names and from what fills
  slots: places, objects, numbers and the like.

So ``ioi2`` is 1 from ``ioi3``, which has one person more, and 7 or so from ``leave2``, whose roles
and words are others.
"""

import re
from dataclasses import dataclass

from circuitlapse.tasks.pools import POOLS
from circuitlapse.tasks.task import Task

_PROMPTS = 256  # enough to meet nearly every wording of a task
_FILLERS = frozenset(word.lower() for words in POOLS.values() for word in words)


@dataclass(frozen=True)
class Form:
    """What a task's prompts look like, whatever they ask.

    Attributes:
        kinds: Kinds of named positions.
        people: People in a prompt.
        words: Words of its texts, in lower case.
    """

    kinds: frozenset[str]
    people: int
    words: frozenset[str]


def form_of(task: Task) -> Form:
    """Read a task's form from what it declares and from its test prompts.

    Raises:
        CircuitlapseError: If it has no test prompts.
    """
    most = task.most("test")
    items = task.items("test", _PROMPTS if most is None else max(1, min(most, _PROMPTS)))
    words = set()
    for item in items:
        names = {name.lower() for name in item.names}
        words |= set(re.findall(r"[^\W\d]+", item.prompt.lower())) - names
    return Form(
        kinds=frozenset(re.sub(r"\d+", "", label) for label in task.positions),
        people=max(len(item.names) for item in items),
        words=frozenset(words - _FILLERS),
    )


def form_distance(one: Form, other: Form) -> float:
    """Return how far apart in form two tasks are; 0 for a task and itself."""
    words = one.words | other.words
    apart = len(one.words ^ other.words) / len(words) if words else 0.0
    return len(one.kinds ^ other.kinds) + abs(one.people - other.people) + apart

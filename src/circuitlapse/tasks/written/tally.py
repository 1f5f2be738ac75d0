"""What a set of items gives away: how its answers spread, and what trivial shortcuts score."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from circuitlapse.records import Estimate
from circuitlapse.records.intervals import proportion_interval
from circuitlapse.tasks.items import Item

_POSITIONS = {2: ("first", "last"), 3: ("first", "middle", "last")}


def by_name(items: Sequence[Item]) -> list[tuple[str, Estimate]]:
    """Share of the answers that each name has, the most frequent first, with 95 % intervals.

    The intervals are Wilson's; names that are equally frequent stand in alphabetical order.
    """
    counted = Counter(item.answer.strip() for item in items)
    ordered = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, proportion_interval(count, len(items))) for name, count in ordered]


def by_position(items: Sequence[Item]) -> dict[str, Estimate]:
    """Share of the answers at each place of the list: ``first``, ``middle`` and ``last``.

    It is also what always answering that place scores.
    """
    places = _POSITIONS[len(items[0].names)]
    counted = Counter(item.names.index(item.answer.strip()) for item in items)
    return {place: proportion_interval(counted[i], len(items)) for i, place in enumerate(places)}


def shortcuts(items: Sequence[Item]) -> dict[str, Estimate]:
    """Accuracy of rules that need no understanding, with 95 % intervals (Wilson's).

    - ``first listed``, ``middle listed``, ``last listed``: always the name at that place.
    - ``most frequent answer``: always the name that is the answer most often, counted on these
      very items.
    - ``last mentioned``: the listed name that stands nearest to the end.
    - ``not mentioned again``: the one listed name that the second clause leaves out; wrong where
      there are several, or none. It is the task's own rule where nobody is named in passing.

    Args:
        items: At least one, all of one task.
    """
    (most, _), *_ = by_name(items)
    rules: dict[str, Callable[[Item], str | None]] = {
        "most frequent answer": lambda item: most,
        "last mentioned": lambda item: _mentions(item)[-1],
        "not mentioned again": _left_out,
    }
    listed = {f"{place} listed": share for place, share in by_position(items).items()}
    return listed | {
        name: proportion_interval(
            sum(rule(item) == item.answer.strip() for item in items), len(items)
        )
        for name, rule in rules.items()
    }


def _mentions(item: Item) -> list[str]:
    either = "|".join(re.escape(name) for name in sorted(item.names, key=len, reverse=True))
    return re.findall(rf"(?<!\w)(?:{either})(?![\w-])", item.prompt)


def _left_out(item: Item) -> str | None:
    counted = Counter(_mentions(item))
    once = [name for name in item.names if counted[name] == 1]
    return once[0] if len(once) == 1 else None

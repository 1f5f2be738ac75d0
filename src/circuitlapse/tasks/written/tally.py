"""What a set of items gives away: how its answers spread, and what trivial shortcuts score."""

from collections import Counter
from collections.abc import Sequence

from circuitlapse.records.items import Item, mentions, shortcut_hits
from circuitlapse.stats.intervals import Estimate, proportion_interval

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

    Those of :func:`circuitlapse.records.items.shortcut_hits`, and ``not mentioned again``: the
    one listed name that the second clause leaves out; wrong where there are several, or none. It is
    the task's own rule where nobody is named in passing.

    Args:
        items: At least one, all of one task.
    """
    hits = {rule: int(right.sum()) for rule, right in shortcut_hits(items).items()}
    hits["not mentioned again"] = sum(_left_out(item) == item.answer.strip() for item in items)
    return {rule: proportion_interval(right, len(items)) for rule, right in hits.items()}


def _left_out(item: Item) -> str | None:
    counted = Counter(mentions(item.prompt, item.names))
    once = [name for name in item.names if counted[name] == 1]
    return once[0] if len(once) == 1 else None

"""The heads that matter most on the new task, each in one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
MOST = 5
ATTENDS = 0.1
"""The smallest mean attention from the last token that is named, as for roles."""
COPIES = 0.5


def heads_in_words(
    changes: Iterable[Row], readings: Iterable[Row], tasks: tuple[str, str], last: int
) -> list[str]:
    """Describe the heads with the largest effects on the new task in the tuned model.

    ``changes`` are rows of the table ``head_changes``, and ``readings`` of the table of that name,
    both of one fine-tune and the first of one counterfactual type.
    """
    rows = [row for row in changes if row["step"] == last]
    rows = sorted(rows, key=lambda row: -abs(row["tuned_new"]))[:MOST]
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in readings:
        found.setdefault((row["component"], row["step"], row["task"]), []).append(row)
    old, new = tasks
    return [
        _sentence(
            row, found.get((row["node"], 0, old), []), found.get((row["node"], last, new), [])
        )
        for row in rows
    ]


def _sentence(row: Row, before: Sequence[Row], after: Sequence[Row]) -> str:
    then, now = _attended(before), _attended(after)
    head = row["node"].removeprefix("a").replace("h", "")
    parts = [
        f"on the old task the base attends from the last token to {then or 'no named position'}, "
        f"on the new task the tuned model to {now or 'no named position'}"
    ]
    for reading, verb in (("copying", "copies"), ("negative_copying", "suppresses")):
        values = [each["value"] for each in after if each["reading"] == reading]
        if values and values[0] >= COPIES:
            parts.append(f"{verb} what it attends to")
    effect = f"effect on the new task {row['base_new']:.2f} to {row['tuned_new']:.2f} logits"
    since = "" if row["category"] in ("kept", "unused") else f" since step {row['since']}"
    return f"{head}: {'; '.join(parts)}; {effect}; {row['category']}{since}."


def _attended(readings: Sequence[Row]) -> str:
    """The named positions with the most attention from the last token, most first."""
    weights = {
        row["positions"].removeprefix("END>"): row["value"]
        for row in readings
        if row["reading"] == "attention" and row["positions"].startswith("END>")
    }
    named = sorted((at for at in weights if weights[at] >= ATTENDS), key=lambda at: -weights[at])
    return " and ".join(f"{_position(at)} ({weights[at]:.2f})" for at in named[:2])


def _position(name: str) -> str:
    first, _, again = name.partition("_again")
    return name if first == name or again else f"the second mention of {first}"

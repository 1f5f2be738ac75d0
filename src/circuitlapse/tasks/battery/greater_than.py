"""Greater-than (Hanna et al. 2023): "The war lasted from the year 1732 to the year 17".

All two digits above the start are right, all others wrong. The published counterfactual starts in
year 01, after which nearly all are right. Only years that the tokenizer splits after the century
are used, since the prompt ends there.
"""

import random
import re
from collections.abc import Collection, Sequence

from circuitlapse.records.items import Item
from circuitlapse.tasks.reference_task import ReferenceRule
from circuitlapse.tasks.splits import hash_split, held_out
from circuitlapse.tasks.task import Case, GeneratedTask
from circuitlapse.tasks.validation import Candidates, undetermined
from circuitlapse.tasks.words import Pools

_TEXTS = {
    "train": (
        "The {event} lasted from the year {year} to the year {century}",
        "The {event} went on from the year {year} until the year {century}",
        "The {event} began in the year {year} and ended in the year {century}",
    ),
    "validation_templates": (
        "The {event} started in the year {year} and was over in the year {century}",
    ),
    "test_templates": ("From the year {year} the {event} continued to the year {century}",),
}
_ENDINGS = tuple(f"{number:02d}" for number in range(100))


def later_years(prompt: str, names: Collection[str]) -> Candidates:
    """Return the greater years of the first year's century."""
    found = re.search(r" (\d\d)(\d\d) .* \1$", prompt)
    if found is None or found[2] == "99":
        raise undetermined(prompt, "Name a year, and end with its century")
    right = frozenset(ending for ending in _ENDINGS if int(ending) > int(found[2]))
    return Candidates(right, frozenset(_ENDINGS) - right, all_needed=False)


def same_year(prompt: str, words: Sequence[str]) -> str | None:
    """Return the last two digits of the prompt's first year."""
    found = re.search(r" \d\d(\d\d) ", prompt)
    return found[1] if found and found[1] in words else None


def _draw(rng: random.Random, split: str, case: Case, pools: Pools) -> Item:
    wanted, templates = held_out(split)
    index = rng.randrange(len(_TEXTS[templates]))
    text = _TEXTS[templates][index]
    years = pools["year"]
    starts = [y for y in years if y[2:] not in ("01", "99") and f"{y[:2]}01" in years]
    while True:
        event, year = rng.choice(pools["event"]), rng.choice(starts)
        if hash_split(f"{event} {year}") == wanted:
            break
    century = year[:2]
    endings = [y[2:] for y in years if y[:2] == century]
    right = [ending for ending in endings if ending > year[2:]]

    def prompt(event: str, year: str) -> str:
        return text.format(event=event, year=year, century=century)

    answer = right.pop(rng.randrange(len(right)))
    clean, other = prompt(event, year), rng.choice([e for e in pools["event"] if e != event])
    place, begin = clean.index(event), clean.index(year)
    return Item(
        prompt=clean,
        answer=answer,
        also=tuple(right),
        distractors=tuple(ending for ending in endings if ending <= year[2:]),
        names=(),
        template=f"{templates}{index}",
        split=split,
        spans={
            "EVENT": (place, place + len(event)),
            "XX": (begin, begin + 2),
            "YY": (begin + 2, begin + 4),
        },
        corrupt={"year_01": prompt(event, f"{century}01"), "event": prompt(other, year)},
        corrupt_answers={"year_01": endings[1], "event": answer},
    )


TASKS = (
    GeneratedTask(
        name="greater_than",
        question="Something began in a year: in which years of that century may it have ended?",
        families={"number": ("year_01",)},
        invariance=("event",),
        positions=("EVENT", "XX", "YY", "END"),
        draw=_draw,
        solve=later_years,
        needs={"year": 40, "event": 4},
        reference=ReferenceRule("The answer is the last two digits of the first year.", same_year),
    ),
)

"""Custom tasks: imported prompts from a JSONL file or a data set, validated item by item.

``docs/how-to/own-prompts.md`` lists the keys of an item. Items that this package writes can be
imported; their ``spans`` are the same as ``positions``. Items without a split get one: by their
names if they have any, so that a test item has a pair of names that no training item has; by their
template; else by a hash of the prompt.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.tasks.battery import TASKS
from circuitlapse.tasks.lines import read_lines
from circuitlapse.tasks.splits import SPLITS, hash_split
from circuitlapse.tasks.task import Task

_FAMILY_OF = {
    variant: family
    for task in TASKS.values()
    for family, variants in task.families.items()
    for variant in variants
}


class _Row(BaseModel):
    """One imported item."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1)
    corrupt: str | dict[str, str]
    answer: str = Field(min_length=1)
    distractors: list[str] = Field(min_length=1)
    also: list[str] = []
    positions: dict[str, list[int]] = {}
    spans: dict[str, list[int]] = {}
    corrupt_answers: dict[str, str] = {}
    names: list[str] = []
    template: str = ""
    split: str = ""


@dataclass(frozen=True)
class CustomTask(Task):
    """A task with imported items, ``by_split``."""

    by_split: Mapping[str, list[Item]]

    def n_items(self, split: str) -> int | None:
        """Return how many items a split holds."""
        return len(self.by_split[split])

    def _items(
        self, split: str, n: int, seed: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[Item]:
        found = self.by_split[split]
        if len(found) < n:
            raise CircuitlapseError(
                f"the split {split!r} of {self.name} does not hold that many items",
                got=n,
                fix=f"Ask for at most {len(found)}"
                if found
                else "Give its items that `split`, or `template`s of which some are held out",
            )
        return random.Random(seed).sample(found, len(found))[:n]  # a smaller n begins a larger one


def import_task(source: str) -> CustomTask:
    """Import a task from a JSONL file, a directory of ``save_to_disk``, or a data set on the Hub.

    Raises:
        CircuitlapseError: At the first item that is wrong, with its line or row.
    """
    path = Path(source).expanduser()
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _read(source, changed, path.absolute())


@lru_cache(maxsize=8)
def _read(source: str, changed: int, path: Path) -> CustomTask:
    items: dict[str, tuple[str, Item]] = {}
    for place, fields in _lines(path) if path.is_file() else _data_set(source, path):
        item = _item(place, fields)
        if item.prompt in items:
            raise _wrong(place, f"the prompt is that of {items[item.prompt][0]}", item.prompt)
        items[item.prompt] = (place, item)
        _check_same_keys(next(iter(items.values())), place, item)
    if not items:
        raise CircuitlapseError(f"{source} holds no items", fix="Give at least one")
    return _task(source, [item for _, item in items.values()])


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in read_lines(file):
        yield f"{file}, {line.place}", line.value


def _data_set(source: str, directory: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    try:
        if directory.is_dir():
            found: Any = datasets.load_from_disk(str(directory))
        else:
            found = datasets.load_dataset(source)
    except Exception as error:  # datasets raises whatever its readers and the network do
        raise CircuitlapseError(
            f"there is no file or data set {source}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
            fix="Give a JSONL file, a directory written by save_to_disk, or a name on the Hub that "
            "can be reached from here",
        ) from error
    parts = found if isinstance(found, dict) else {"": found}
    for split, rows in parts.items():
        for number, row in enumerate(rows, 1):
            fields = _without_none(row)
            # A column of dictionaries has every key in every row.
            fields |= {key: _without_none(v) for key, v in fields.items() if isinstance(v, dict)}
            if split in SPLITS:
                fields.setdefault("split", split)
            yield f"{source}, row {number}" + (f" of {split!r}" if split else ""), fields


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _item(place: str, fields: dict[str, Any]) -> Item:
    try:
        row = _Row.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        key, said = str(fault["loc"][0]), f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
        what = {
            "extra_forbidden": f"{key!r} is no key of an item",
            "missing": f"the key {key!r} is missing",
        }.get(fault["type"], f"{key!r}: {said}")
        raise CircuitlapseError(
            f"{place}: {what}",
            got=", ".join(fields) or "no keys",
            fix="An item has prompt, corrupt, answer and distractors, and may have "
            f"{', '.join(list(_Row.model_fields)[4:])}",
        ) from None
    corrupt = {"corrupt": row.corrupt} if isinstance(row.corrupt, str) else row.corrupt
    spans = {**row.spans, **row.positions}
    if what := next(_faults(row, corrupt, spans), None):
        raise _wrong(place, what, row.prompt)
    return Item(
        prompt=row.prompt,
        answer=row.answer,
        also=tuple(row.also),
        distractors=tuple(row.distractors),
        names=tuple(row.names),
        template=row.template,
        split=row.split or _split(row),
        spans={label: (span[0], span[1]) for label, span in spans.items()},
        corrupt=corrupt,
        corrupt_answers=row.corrupt_answers,
    )


def _faults(row: _Row, corrupt: dict[str, str], spans: dict[str, list[int]]) -> Iterator[str]:
    if not corrupt:
        yield "there is no corrupt prompt"
    for name, prompt in corrupt.items():
        if not name.replace("_", "").isalnum():
            yield f"the counterfactual {name!r} must be a word"
        if prompt in ("", row.prompt):
            yield f"the counterfactual {name!r} changes nothing"
    for word, times in Counter([row.answer, *row.also, *row.distractors]).items():
        if times > 1:
            yield f"{word!r} is given twice among answers and distractors"
    if row.prompt[-1].isspace() and row.answer[0].isspace():
        yield "the prompt ends with a space and the answer begins with one"
    if row.split not in ("", *SPLITS):
        yield f"there is no split {row.split!r}; use {', '.join(SPLITS)}"
    for label, span in spans.items():
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(row.prompt):
            yield f"the position {label!r} is not [start, end] in the prompt"


def _split(row: _Row) -> str:
    """Choose a split so that none shares an item, a pair of names or a held-out template."""
    pairs = [" ".join(pair) for pair in combinations(sorted(row.names), 2)]
    kinds = {hash_split(text) for text in pairs or row.names or [row.prompt]}
    kind = next(split for split in ("test", "validation", "train") if split in kinds)
    template = hash_split(row.template) if row.template else "train"
    if template == "train":
        return kind
    # A held-out template with names of another split is in no split.
    return f"{template}_templates" if kind == template else ""


def _check_same_keys(first: tuple[str, Item], place: str, item: Item) -> None:
    for what, one, other in (
        ("counterfactuals", sorted(first[1].corrupt), sorted(item.corrupt)),
        ("positions", list(first[1].spans), list(item.spans)),
    ):
        if one != other:
            what = f"its {what} are {other}, but those of {first[0]} {one}"
            raise _wrong(place, what, item.prompt)


def _task(source: str, items: list[Item]) -> CustomTask:
    families: dict[str, tuple[str, ...]] = {}
    invariance: tuple[str, ...] = ()
    for name in items[0].corrupt:
        if all(item.corrupt_answers.get(name) == item.answer for item in items):
            invariance += (name,)
        else:
            family = _FAMILY_OF.get(name, name)
            families[family] = (*families.get(family, ()), name)
    if not families:
        what = f"{source} has no counterfactual that changes the answer"
        raise CircuitlapseError(what, got=", ".join(invariance))
    return CustomTask(
        name=source,
        question=f"The question of {source}",
        families=families,
        invariance=invariance,
        positions=(*items[0].spans, "END"),
        by_split={split: [item for item in items if item.split == split] for split in SPLITS},
    )


def _wrong(place: str, what: str, prompt: str) -> CircuitlapseError:
    fix = "Correct or remove this item"
    return CircuitlapseError(f"{place}: {what}", got=prompt[:200], fix=fix)

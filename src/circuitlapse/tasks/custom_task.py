"""Custom tasks: imported prompts from a JSONL file or a data set, validated item by item.

An item is ``{"prompt", "corrupt", "answer", "distractors"}``, and may have ``also`` (other right
answers), ``positions`` (start and end of named words in the prompt, in characters; ``spans`` is the
same), ``corrupt_answers``, ``names``, ``template`` and ``split``. ``corrupt`` is one prompt, or
several by name. Items that this package writes can be imported.

Items without a split get one: by their names if they have any, so that a test item has a pair of
names that no training item has; by their template; else by a hash of the prompt.
"""

import os
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
    """A task with imported items.

    Attributes:
        by_split: All items, by split.
    """

    by_split: Mapping[str, list[Item]]

    def n_items(self, split: str) -> int | None:
        """Return how many items a split holds."""
        return len(self.by_split[split])

    def _items(
        self, split: str, n: int, seed: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[Item]:
        held = self.by_split[split]
        if len(held) < n:
            raise CircuitlapseError(
                f"the split {split!r} of {self.name} does not hold that many items",
                got=n,
                fix=f"Ask for at most {len(held)}"
                if held
                else "Give its items that `split`, or `template`s of which some are held out",
            )
        return random.Random(seed).sample(held, len(held))[:n]  # a smaller n begins a larger one


def import_task(source: str) -> CustomTask:
    """Import a task from a JSONL file, a directory of ``save_to_disk``, or a data set on the Hub.

    Raises:
        CircuitlapseError: At the first item that is wrong, with its line or row.
    """
    path = Path(source).expanduser()
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _read(source, changed, os.fspath(path.absolute()))


@lru_cache(maxsize=8)
def _read(source: str, changed: int, path: str) -> CustomTask:
    file = Path(path)
    items: dict[str, tuple[str, Item]] = {}
    for place, fields in _lines(file) if file.is_file() else _data_set(source, file):
        item = _item(place, fields)
        if item.prompt in items:
            raise _wrong(place, f"the prompt is that of {items[item.prompt][0]}", item.prompt)
        items[item.prompt] = (place, item)
    if not items:
        raise CircuitlapseError(f"{source} holds no items", fix="Give at least one")
    _check_alike(list(items.values()))
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
            fields = {key: _without_gaps(value) for key, value in row.items() if value is not None}
            if split in SPLITS:
                fields.setdefault("split", split)
            yield f"{source}, row {number}" + (f" of {split!r}" if split else ""), fields


def _without_gaps(value: Any) -> Any:
    # A column of dictionaries has every key in every row.
    if isinstance(value, dict):
        return {key: inner for key, inner in value.items() if inner is not None}
    return value


def _item(place: str, fields: dict[str, Any]) -> Item:
    try:
        row = _Row.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        key = str(fault["loc"][0])
        if fault["type"] == "extra_forbidden":
            what = f"{key!r} is no key of an item"
        elif fault["type"] == "missing":
            what = f"the key {key!r} is missing"
        else:
            what = f"{key!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
        raise CircuitlapseError(
            f"{place}: {what}",
            got=", ".join(fields) or "no keys",
            fix="An item has prompt, corrupt, answer and distractors, and may have "
            f"{', '.join(list(_Row.model_fields)[4:])}",
        ) from None
    corrupt = {"corrupt": row.corrupt} if isinstance(row.corrupt, str) else row.corrupt
    candidates = [row.answer, *row.also, *row.distractors]
    if not corrupt:
        raise _wrong(place, "there is no corrupt prompt", row.prompt)
    for name, prompt in corrupt.items():
        if not name.replace("_", "").isalnum():
            raise _wrong(place, f"the counterfactual {name!r} must be a word", row.prompt)
        if prompt == row.prompt or not prompt:
            raise _wrong(place, f"the counterfactual {name!r} changes nothing", row.prompt)
    if len(set(candidates)) < len(candidates):
        twice = next(word for word, times in Counter(candidates).items() if times > 1)
        raise _wrong(place, f"{twice!r} is there twice among answers and distractors", row.prompt)
    if row.prompt[-1].isspace() and row.answer[0].isspace():
        raise _wrong(
            place, "the prompt ends with a space and the answer begins with one", row.prompt
        )
    if row.split and row.split not in SPLITS:
        raise _wrong(place, f"there is no split {row.split!r}; use {', '.join(SPLITS)}", row.prompt)
    spans = {**row.spans, **row.positions}
    for label, span in spans.items():
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(row.prompt):
            raise _wrong(place, f"the position {label!r} is not [start, end] in it", row.prompt)
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


def _split(row: _Row) -> str:
    """Choose a split so that none shares an item, a pair of names or a held-out template."""
    pairs = [" ".join(pair) for pair in combinations(sorted(row.names), 2)]
    kinds = {hash_split(text) for text in pairs or row.names or [row.prompt]}
    kind = next(split for split in ("test", "validation", "train") if split in kinds)
    template = hash_split(row.template) if row.template else "train"
    if template == "train":
        return kind
    # A held-out template with training names would be held out by half: it belongs nowhere.
    return f"{template}_templates" if kind == template else ""


def _check_alike(items: list[tuple[str, Item]]) -> None:
    first_place, first = items[0]
    for place, item in items[1:]:
        for what, one, other in (
            ("counterfactuals", sorted(first.corrupt), sorted(item.corrupt)),
            ("positions", list(first.spans), list(item.spans)),
        ):
            if one != other:
                raise _wrong(
                    place, f"its {what} are {other}, but those of {first_place} {one}", item.prompt
                )


def _task(source: str, items: list[Item]) -> CustomTask:
    names = list(items[0].corrupt)
    invariance = tuple(
        name
        for name in names
        if all(item.corrupt_answers.get(name) == item.answer for item in items)
    )
    families: dict[str, tuple[str, ...]] = {}
    for name in names:
        if name not in invariance:
            family = _FAMILY_OF.get(name, name)
            families[family] = (*families.get(family, ()), name)
    if not families:
        raise CircuitlapseError(
            f"{source} has no counterfactual that changes the answer", got=", ".join(names)
        )
    by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
    for item in items:
        if item.split:
            by_split[item.split].append(item)
    return CustomTask(
        name=source,
        question=f"Whatever {source} asks",
        families=families,
        invariance=invariance,
        positions=(*items[0].spans, "END"),
        by_split=by_split,
    )


def _wrong(place: str, what: str, prompt: str) -> CircuitlapseError:
    return CircuitlapseError(
        f"{place}: {what}", got=prompt[:200], fix="Correct or remove this item"
    )

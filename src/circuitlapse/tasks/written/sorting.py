"""Sort a file's items into those that can be used and those that cannot, each with its reason."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.records.store import replacing
from circuitlapse.tasks.lines import Line, read_lines
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.written.judge import WrittenTask, judge, tidy
from circuitlapse.tasks.written.partners import to_item
from circuitlapse.tasks.written.reason import MEANINGS, ItemError, Reason

_PROMPT, _ANSWER = ("prompt", "question"), ("completion", "answer")


@dataclass(frozen=True)
class Reject:
    """An item that cannot be used.

    Attributes:
        place: Where it stood: ``line 3``, or ``item 3`` of an array, from 1.
        reason: Why, as in ``MEANINGS``.
        detail: What is wrong with this very item.
        item: As it was.
    """

    place: str
    reason: Reason
    detail: str
    item: dict[str, Any]


@dataclass(frozen=True)
class Sorted:
    """What was made of a file.

    Attributes:
        items: Those that can be used, in the file's order.
        rejects: The others, in the file's order.
    """

    items: list[Item]
    rejects: list[Reject]

    def counts(self) -> dict[Reason, int]:
        """How many were rejected for each reason that occurred, in the order of ``MEANINGS``."""
        counted = Counter(reject.reason for reject in self.rejects)
        return {reason: counted[reason] for reason in MEANINGS if counted[reason]}

    def save(self, out: Path, rejects: Path) -> None:
        """Write both as JSONL; neither file is touched unless both can be written whole.

        Raises:
            CircuitlapseError: If they are the same file, are directories, or cannot be written.
        """
        if out.resolve() == rejects.resolve():
            raise CircuitlapseError(
                "items and rejects need a file each", got=str(out), fix="Give two different paths"
            )
        for path in (out, rejects):
            if path.is_dir():
                raise CircuitlapseError(f"{path} is a directory", fix="Give the path of a file")
        good = "".join(item.model_dump_json() + "\n" for item in self.items)
        bad = "".join(json.dumps(vars(line), ensure_ascii=False) + "\n" for line in self.rejects)
        try:
            with ExitStack() as drafts:
                for path, text in ((out, good), (rejects, bad)):
                    draft = drafts.enter_context(replacing(path))
                    draft.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CircuitlapseError(
                f"the items cannot be written: {error.strerror or error}",
                got=f"{out} and {rejects}",
                fix="Give paths of files in directories that may be written to",
            ) from error


class Sorter:
    """Takes items one by one; what it has taken is what later ones may not repeat.

    Args:
        task: The task that the items are meant for.
        tokenizer: The model's; with it, items that it splits are refused too.
    """

    def __init__(self, task: WrittenTask, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Start with nothing taken."""
        self.task: WrittenTask = task
        self.tokenizer = tokenizer
        self._taken: set[tuple[str, str]] = set()

    def take(self, prompt: str, completion: str) -> Item:
        """Return the item of a prompt and its answer.

        Raises:
            ItemError: If it cannot be used.
        """
        key = (" ".join(tidy(prompt).split()).casefold(), tidy(completion).rstrip(".").casefold())
        if key in self._taken:
            raise ItemError("duplicate", "the same prompt and answer stood earlier")
        self._taken.add(key)
        item = to_item(judge(prompt, completion, self.task), self.task)
        if self.tokenizer is not None:
            _check_tokens(item, self.tokenizer)
        return item


def sort_items(
    path: Path, task: WrittenTask = "ioi3", tokenizer: PreTrainedTokenizerBase | None = None
) -> Sorted:
    """Read a JSON or JSONL file of items and sort them.

    Each has a ``prompt`` or ``question`` and a ``completion`` or ``answer``; other keys are passed
    over, so that a file that :meth:`Sorted.save` wrote can be sorted again, to the same items.

    Args:
        path: The file.
        task: The task that its items are meant for.
        tokenizer: See :class:`Sorter`.

    Raises:
        CircuitlapseError: If the file cannot be read or an object has not these keys, with the
            place.
    """
    return _sort(read_lines(path), path, Sorter(task, tokenizer).take)


def _sort(lines: Iterable[Line], path: Path, take: Callable[[str, str], Item]) -> Sorted:
    items: list[Item] = []
    rejects: list[Reject] = []
    for line in lines:
        prompt, completion = (_text(line, path, keys) for keys in (_PROMPT, _ANSWER))
        try:
            items.append(take(prompt, completion))
        except ItemError as error:
            rejects.append(Reject(line.place, error.reason, error.detail, line.value))
    return Sorted(items, rejects)


def _text(line: Line, path: Path, keys: tuple[str, ...]) -> str:
    found = [key for key in keys if key in line.value]
    value = line.value[found[0]] if found else None
    if len(found) == 1 and isinstance(value, str):
        return value
    wanted = " or ".join(repr(key) for key in keys)
    fix = 'Give every object a "prompt" and a "completion", both text'
    if len(found) == 1:
        shown = json.dumps(value, ensure_ascii=False)[:60]
        raise CircuitlapseError(f"{path}, {line.place}: {found[0]!r} is no text: {shown}", fix=fix)
    raise CircuitlapseError(
        f"{path}, {line.place}: one key {wanted} is needed",
        got=", ".join(line.value)[:80] or "no keys",
        fix=fix,
    )


def _check_tokens(item: Item, tokenizer: PreTrainedTokenizerBase) -> None:
    # Every partner is checked for its length; the prompt itself even where it has none.
    checked = item.model_copy(update={"corrupt": {"prompt": item.prompt, **item.corrupt}})
    for corruption in checked.corrupt:
        try:
            tokenize([checked], tokenizer, corruption)
        except CircuitlapseError as error:
            raise ItemError("tokens", str(error)) from error

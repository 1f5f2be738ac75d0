"""Which items of a file can be used? Every other item is a reject with its reason."""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.records.store import replacing
from circuitlapse.tasks.lines import Line, read_lines
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.written import recipient
from circuitlapse.written.recipient import MEANINGS, ItemError, WrittenTask
from circuitlapse.written.renaming import to_item

_PROMPT, _ANSWER = ("prompt", "question"), ("completion", "answer", "recipient")
_CLAIMS = ("listed", "acting", "recipient")


@dataclass(frozen=True)
class Reject:
    """An item that cannot be used, where it stands (``line 3``, ``item 3``), and why not."""

    place: str
    reason: str
    detail: str
    item: dict[str, Any]


@dataclass(frozen=True)
class Sorted:
    """Items in the file's order; ``repeated`` counts answers by how often they repeat a name."""

    items: list[Item]
    rejects: list[Reject]
    repeated: Counter[int] = field(default_factory=Counter)

    def counts(self) -> dict[str, int]:
        """Return how many were rejected, by reason, in the order of ``MEANINGS``."""
        counted = Counter(reject.reason for reject in self.rejects)
        return {reason: counted[reason] for reason in MEANINGS if counted[reason]}

    def save(self, out: Path, rejects: Path) -> None:
        """Write both as JSONL; no regular file is touched unless both can be written whole.

        Links are followed. A device or pipe, such as ``/dev/null``, is written to.

        Raises:
            CircuitlapseError: If they are the same file, are directories, or cannot be written.
        """
        good = "".join(item.model_dump_json() + "\n" for item in self.items)
        bad = "".join(json.dumps(vars(one), ensure_ascii=False) + "\n" for one in self.rejects)
        what = "items and rejects need a file each, not a directory"
        try:
            texts = {out.resolve(): good, rejects.resolve(): bad}
            if len(texts) == 2 and not any(path.is_dir() for path in texts):
                with ExitStack() as drafts:
                    for path, text in texts.items():
                        special = path.exists() and not path.is_file()
                        draft = path if special else drafts.enter_context(replacing(path))
                        draft.write_text(text, encoding="utf-8")
                return
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError in Python 3.11
            what = f"the items cannot be written: {getattr(error, 'strerror', None) or error}"
        fix = "Give two paths of files in directories that may be written to"
        raise CircuitlapseError(what, got=f"{out} and {rejects}", fix=fix)


class Sorter:
    """Sorts items one by one and knows the earlier ones. With ``fields`` each needs its claims."""

    def __init__(
        self, task: WrittenTask, tokenizer: PreTrainedTokenizerBase | None, fields: bool = False
    ) -> None:
        """Start without any items."""
        self.task: WrittenTask = task
        self.tokenizer, self.fields = tokenizer, fields
        self.sorted = Sorted([], [])
        self._seen: set[tuple[str, str]] = set()

    def take(self, prompt: str, completion: str, raw: dict[str, Any], place: str) -> Item | None:
        """Add an item to the good ones and return it, or add it to the rejects."""
        answer, times = recipient.answer_of(completion)
        if times > 1:
            self.sorted.repeated[times] += 1
        key = (" ".join(recipient.tidy(prompt).split()).casefold(), answer.casefold())
        claims = {key: raw.get(key) for key in _CLAIMS if self.fields or key in raw}
        try:
            if key in self._seen:
                raise ItemError("duplicate", MEANINGS["duplicate"])
            self._seen.add(key)
            item = to_item(recipient.recipient_of(prompt, answer, self.task, claims), self.task)
            if self.tokenizer is not None:
                _check_tokens(item, self.tokenizer)
        except ItemError as error:
            self.sorted.rejects.append(Reject(place, error.reason, str(error), raw))
            return None
        self.sorted.items.append(item)
        return item


def sort_items(
    path: Path, task: WrittenTask = "ioi3", tokenizer: PreTrainedTokenizerBase | None = None
) -> Sorted:
    """Read a JSON or JSONL file of items and sort them.

    Each has a ``prompt`` or ``question`` and a ``completion``, ``answer`` or ``recipient``. The
    fields ``listed`` and ``acting`` are checked against the text where there are any; other keys
    are ignored. A file that :meth:`Sorted.save` wrote gives the same items again.

    Raises:
        CircuitlapseError: If the file cannot be read or an object lacks these keys, with the place.
    """
    sorter = Sorter(task, tokenizer)
    for line in read_lines(path):
        prompt, completion = (_text(line, path, keys) for keys in (_PROMPT, _ANSWER))
        sorter.take(prompt, completion, line.value, line.place)
    return sorter.sorted


def _text(line: Line, path: Path, keys: tuple[str, ...]) -> str:
    found = [key for key in keys if key in line.value]
    if found[1:] == ["recipient"]:  # a claim about the answer, if there is an answer
        del found[1]
    value = line.value[found[0]] if found else None
    if len(found) == 1 and isinstance(value, str):
        return value
    if len(found) == 1:
        what = f"{found[0]!r} is no text: {json.dumps(value, ensure_ascii=False)[:60]}"
    else:
        keys_got = ", ".join(line.value)[:80] or "no keys"
        what = f"one key {keys[0]!r} or {keys[1]!r} is needed (got {keys_got})"
    fix = 'Give every object a "prompt" and a "completion", both text'
    raise CircuitlapseError(f"{path}, {line.place}: {what}", fix=fix)


def _check_tokens(item: Item, tokenizer: PreTrainedTokenizerBase) -> None:
    # Every counterfactual is checked for its length, and the prompt even where it has none.
    checked = item.model_copy(update={"corrupt": {"prompt": item.prompt, **item.corrupt}})
    for name in checked.corrupt:
        try:
            tokenize([checked], tokenizer, name)
        except CircuitlapseError as error:
            raise ItemError("tokens", str(error)) from error

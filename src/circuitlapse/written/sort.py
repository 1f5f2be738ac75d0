"""Which items of a file can be used? Every other item is a reject with its reason."""

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.records.items import Item
from circuitlapse.records.store import write_texts
from circuitlapse.tasks.battery.ioi import ioi_item
from circuitlapse.tasks.lines import Line, read_lines
from circuitlapse.tasks.tokenization import tokenize
from circuitlapse.tasks.words import NAMES
from circuitlapse.written import recipient
from circuitlapse.written.recipient import ItemError, Reading, WrittenTask


class Reject(NamedTuple):
    """An item that cannot be used, its place in the file (``line 3``, ``item 3``), and why not."""

    place: str
    reason: str
    detail: str
    item: dict[str, Any]


@dataclass
class Sorted:
    """Good items and rejects of a task, in their order.

    ``missing`` is the number of items wanted from a language model, by the recipient's list
    position. Such an item must say who is listed and who acts; more good ones are a ``surplus``.
    ``repeated`` counts answers by how often they repeat a name.
    """

    task: WrittenTask
    tokenizer: PreTrainedTokenizerBase | None = None
    missing: list[int] | None = None
    items: list[Item] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    repeated: Counter[int] = field(default_factory=Counter)
    surplus: int = 0
    replies: int = 0
    _seen: set[tuple[str, str]] = field(default_factory=set)

    def add(self, prompt: str, completion: str, raw: dict[str, Any], place: str) -> None:
        """Add an item to the good ones or to the rejects."""
        answer, times = recipient.answer_of(completion)
        if times > 1:
            self.repeated[times] += 1
        same = (" ".join(recipient.tidy(prompt).split()).casefold(), answer.casefold())
        claims = {key: raw.get(key) for key in recipient.CLAIMS if self.missing or key in raw}
        try:
            if same in self._seen:
                raise ItemError("duplicate", recipient.MEANINGS["duplicate"])
            self._seen.add(same)
            item = to_item(recipient.recipient_of(prompt, answer, self.task, claims), self.task)
            if self.tokenizer is not None:
                for name in item.corrupt:
                    tokenize([item], self.tokenizer, name)
        except (ItemError, CircuitlapseError) as error:
            reason = error.reason if isinstance(error, ItemError) else "tokens"
            self.rejects.append(Reject(place, reason, str(error), raw))
            return
        if self.missing is not None:
            position = item.names.index(item.answer.strip())
            if not self.missing[position]:
                self.surplus += 1
                return
            self.missing[position] -= 1
        self.items.append(item)

    def counts(self) -> dict[str, int]:
        """Return how many were rejected, by reason, in the order of ``MEANINGS``."""
        counted = Counter(reject.reason for reject in self.rejects)
        return {reason: n for reason in recipient.MEANINGS if (n := counted[reason])}

    def save(self, out: Path, rejects: Path) -> None:
        """Write items and rejects as JSONL."""
        good = [item.model_dump_json() + "\n" for item in self.items]
        bad = [json.dumps(one._asdict(), ensure_ascii=False) + "\n" for one in self.rejects]
        write_texts((out, "".join(good)), (rejects, "".join(bad)))


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
    found = Sorted(task, tokenizer)
    for line in read_lines(path):
        prompt = _text(line, path, "prompt", "question")
        completion = _text(line, path, "completion", "answer", "recipient")
        found.add(prompt, completion, line.value, line.place)
    return found


def _text(line: Line, path: Path, *keys: str) -> str:
    found = [key for key in keys if key in line.value]
    if found[1:] == ["recipient"]:  # a claim about the answer, if there is an answer
        del found[1]
    value = line.value[found[0]] if len(found) == 1 else None
    if not isinstance(value, str):
        raise CircuitlapseError(
            f"{path}, {line.place}: a text is needed under one key, {keys[0]!r} or {keys[1]!r}",
            got=json.dumps(line.value, ensure_ascii=False)[:80],
            fix='Give every object a "prompt" and a "completion", both text',
        )
    return value


def to_item(reading: Reading, task: WrittenTask) -> Item:
    """Return the item of a prompt, always the same one for the same prompt.

    Counterfactuals are the same text with names exchanged. Each is read again. The ``template`` is
    ``w`` and a hash of the wording without the names. The ``split`` is empty, so that a task file
    gives the item one.

    Raises:
        ItemError: If a counterfactual does not have its answer as its single recipient.
    """
    prompt, names, rng = reading.prompt, list(reading.listed), random.Random(reading.prompt)
    if gendered := recipient.GENDERED.search(prompt):
        raise ItemError("counterfactual", f"{gendered[0]!r} may not fit exchanged names")
    start, end = reading.listed[names[0]][0], reading.listed[names[-1]][1]

    def renamed(text: str, to: Mapping[str, str]) -> str:
        return recipient.WORD.sub(lambda word: to.get(word[0], word[0]), text)

    def text(in_list: Mapping[str, str], later: Mapping[str, str]) -> str:
        return prompt[:start] + renamed(prompt[start:end], in_list) + renamed(prompt[end:], later)

    reordered = rng.choice([order for order in permutations(names) if list(order) != names])
    unused = [name for name in NAMES if name not in re.findall(r"\w+", prompt)]
    blank = dict.fromkeys(names, "{}")
    item = ioi_item(
        text,
        reading.listed,
        reading.acting,
        others=dict(zip(names, rng.sample(unused, len(names)), strict=True)),
        reordered=reordered,
        template=f"w{hashlib.sha256(text(blank, blank).encode()).hexdigest()[:10]}",
    )
    for key, corrupt in item.corrupt.items():
        try:
            recipient.recipient_of(corrupt, item.corrupt_answers[key].strip(), task)
        except ItemError as error:
            raise ItemError("counterfactual", f"{key}: {error}") from error
    return item

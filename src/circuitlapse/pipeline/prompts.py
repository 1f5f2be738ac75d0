"""The run's prompts: written once as JSON lines, and turned into tensors once per process."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from circuitlapse.errors import CircuitlapseError
from circuitlapse.pipeline import plan
from circuitlapse.records import Store
from circuitlapse.tasks import Item, PromptPairs, tokenize

_KEPT = 64  # token tensors of a run; each is a few hundred KiB
_tokenised: dict[tuple[str, ...], PromptPairs] = {}


def read_items(content: bytes) -> list[Item]:
    """Read a task's items from JSON lines."""
    return [Item.model_validate_json(line) for line in content.splitlines()]


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write a task's items as JSON lines."""
    path.write_text("".join(item.model_dump_json() + "\n" for item in items), encoding="utf-8")


def check_apart(store: Store, trained: str, tested: str) -> None:
    """Refuse to evaluate on what was trained on.

    Raises:
        CircuitlapseError: With the first test prompt that is among the training prompts, and the
            lines of both.
    """
    lines = {item.prompt: number for number, item in enumerate(read_items(store.read(trained)), 1)}
    for number, item in enumerate(read_items(store.read(tested)), 1):
        if item.prompt in lines:
            raise CircuitlapseError(
                f"{Path(tested).name}, line {number}: this test prompt is trained on too, in "
                f"{Path(trained).name}, line {lines[item.prompt]}",
                got=item.prompt,
                fix="Give the old and the new task items that differ, and each item one split",
            )


class Prompts:
    """The held-out prompts of one task, tokenised for one model.

    Every checkpoint of a run is measured on the same prompts with the same tokenizer, so what was
    tokenised once is kept for the process's next job.
    """

    def __init__(self, store: Store, task: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Name the prompts; nothing is read yet."""
        self._store, self._task, self._tokenizer = store, task, tokenizer
        spelling = json.dumps(sorted(tokenizer.get_vocab().items()))
        self._tokenizer_key = hashlib.sha256(spelling.encode()).hexdigest()

    def pairs(self, split: str, n: int, corruption: str, skip: int = 0) -> PromptPairs:
        """Return ``n`` prompts of a split, after the first ``skip``, with one corruption of each.

        Raises:
            CircuitlapseError: If the prompts' file was changed, or they cannot be tokenised.
        """
        content = self._store.read(plan.prompts(self._task, split))
        digest = hashlib.sha256(content).hexdigest()
        key = (digest, self._tokenizer_key, str(n), str(skip), corruption)
        if key not in _tokenised:
            while len(_tokenised) >= _KEPT:
                _tokenised.pop(next(iter(_tokenised)))
            _tokenised[key] = tokenize(
                read_items(content)[skip : skip + n], self._tokenizer, corruption
            )
        return _tokenised[key]

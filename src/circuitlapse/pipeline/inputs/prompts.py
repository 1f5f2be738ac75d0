"""The run's prompts: written once as JSON lines, and turned into tensors once per process."""

import hashlib
import json

from transformers import PreTrainedTokenizerBase

from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.records import layout
from circuitlapse.records.items import read_items
from circuitlapse.records.store import Store
from circuitlapse.tasks.tokenization import tokenize

_KEPT = 64  # token tensors of a run; each is a few hundred KiB
_tokenised: dict[tuple[str, ...], PromptPairs] = {}


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

    def pairs(self, split: str, n: int, counterfactual: str, skip: int = 0) -> PromptPairs:
        """Return ``n`` prompts of a split after the first ``skip``, each with its counterfactual.

        Raises:
            CircuitlapseError: If the prompts' file was changed, or they cannot be tokenised.
        """
        content = self._store.read(layout.prompts(self._task, split))
        digest = hashlib.sha256(content).hexdigest()
        key = (digest, self._tokenizer_key, str(n), str(skip), counterfactual)
        if key not in _tokenised:
            while len(_tokenised) >= _KEPT:
                _tokenised.pop(next(iter(_tokenised)))
            _tokenised[key] = tokenize(
                read_items(content)[skip : skip + n], self._tokenizer, counterfactual
            )
        return _tokenised[key]

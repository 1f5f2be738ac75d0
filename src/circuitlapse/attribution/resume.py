"""Long work kept on disk while it goes on: the exact scores found so far, and which these are.

The file is written under a temporary name and renamed, so that there is always a whole one, and it
names what it was made from: nothing is ever continued with another model, pairs or metric.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from circuitlapse.errors import CircuitlapseError
from circuitlapse.models.graph import Graph
from circuitlapse.models.load import Model
from circuitlapse.records import key_of, replacing
from circuitlapse.shapes import Bool, Float, Int
from circuitlapse.tasks.metrics import Metric
from circuitlapse.tasks.pairs import PromptPairs

SECONDS_BETWEEN_WRITES = 30.0


def made_from(model: Model, pairs: PromptPairs, metric: Metric, names: tuple[str, ...] = ()) -> str:
    """Hash what exact scores depend on: all weights, their config, the pairs and the metric.

    Of the pairs' positions those count by which scores are kept.

    Raises:
        CircuitlapseError: If the metric is a callable, which cannot be told from another.
    """
    if callable(metric):
        raise CircuitlapseError(
            "scores of a metric of one's own cannot be saved: another could not be told from it",
            fix="Use a named metric, or leave save out",
        )
    digest = hashlib.sha256()
    for weight in model.hf.state_dict().values():
        digest.update(_bytes(weight))
    # The pairs' own padding and names do not matter.
    pairs = pairs.trimmed()
    real = torch.arange(pairs.clean.shape[1]) <= pairs.reads().amax(dim=1, keepdim=True).cpu()
    for tensor in (pairs.clean, pairs.corrupt):
        digest.update(_bytes(tensor.cpu().where(real, 0)))
    where = [pairs.positions[name] for name in names]
    for tensor in (pairs.lengths, pairs.answers, pairs.distractors, pairs.continuations, *where):
        digest.update(_bytes(tensor))
    config = model.hf.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    shapes = [list(pairs.distractors.shape), list(pairs.continuations.shape)]
    return key_of("exact", metric, str(config), shapes, list(names), digest.hexdigest())


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@dataclass
class Unfinished:
    """Sums of scores so far.

    Attributes:
        path: Where they are kept, if anywhere.
        key: Of what they are made from.
        sums: Over the even and over the odd rows that are done, and over all of them at each named
            position alone.
        done: For which pairs and readers all edges are in the sums.
        written: When they were last written, on the monotonic clock.
    """

    path: Path | None
    key: str
    sums: Float[Tensor, "parts writers readers"]
    done: Bool[Tensor, "prompts readers"]
    written: float = field(default_factory=time.monotonic)

    @classmethod
    def at(
        cls, path: str | Path | None, key: str, n: int, graph: Graph, n_shares: int
    ) -> "Unfinished":
        """Go on from a file, or begin where there is none.

        Raises:
            CircuitlapseError: If the file was made from something else, or is no such file.
        """
        sums = torch.zeros(2 + n_shares, *graph.edges.shape, dtype=torch.float64)
        done = torch.zeros(n, len(graph.readers), dtype=torch.bool)
        if path is None:
            return cls(None, key, sums, done)
        path = Path(path)
        if not path.exists():
            return cls(path, key, sums, done)
        try:
            with safe_open(path, framework="pt") as file:
                found = (file.metadata() or {}).get("made_from")
                if found == key:
                    return cls(path, key, file.get_tensor("sums"), file.get_tensor("done"))
        except (SafetensorError, OSError) as error:
            raise CircuitlapseError(
                f"{path} holds no scores that could be continued",
                got=str(error),
                fix="Remove it, or save elsewhere",
            ) from error
        raise CircuitlapseError(
            f"{path} holds scores of another model, other pairs or another metric",
            fix="Save elsewhere, or remove it to start anew",
        )

    def add(
        self,
        reader: int,
        rows: Int[Tensor, " some"],
        whole: Float[Tensor, "_ some"],
        alone: Sequence[Float[Tensor, "_ some"]] = (),
    ) -> None:
        """Add the effects of all edges into one reader, from its first writer on, in some pairs.

        Args:
            reader: Its index.
            rows: Which pairs.
            whole: The effects of corrupting the edges at all positions.
            alone: Those of corrupting them at each named position alone.
        """
        halves = [whole[:, rows % 2 == half] for half in (0, 1)]
        for part, effects in enumerate((*halves, *alone)):
            self.sums[part, : len(effects), reader] += effects.double().cpu().sum(dim=1)
        self.done[rows, reader] = True
        if time.monotonic() - self.written > SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Replace the file, if there is to be one, in one step."""
        if self.path is None:
            return
        with replacing(self.path) as draft:
            tensors = {"sums": self.sums, "done": self.done}
            save_file(tensors, draft, metadata={"made_from": self.key})
        self.written = time.monotonic()

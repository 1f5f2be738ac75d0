"""Roles of heads, and the tests of each role, as in Wang et al. (2022).

Each test gives every head a number that is larger the better the head fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from circuitlapse.graph import head_name
from circuitlapse.heads.role_names import ATTENDS, COPIES, REPEATS
from circuitlapse.models.engine.model import Model
from circuitlapse.patching.paths import sweep_paths
from circuitlapse.prompts.pairs import PromptPairs
from circuitlapse.reading.attention import attention_of_each
from circuitlapse.reading.heads import copying_scores
from circuitlapse.reading.repeats import repeat_scores
from circuitlapse.shapes import Float

Head = tuple[int, int]
"""Layer and number of a head, from 0."""


@dataclass(frozen=True)
class Attends:
    """Mean attention from one position to another, such as ``END`` or ``S+1``."""

    source: str
    target: str
    at_least: float = ATTENDS

    def __str__(self) -> str:
        """Name the test."""
        return f"{self.source} → {self.target}"


@dataclass(frozen=True)
class Copies:
    """Copy score, or negative copy score, of the tokens at named positions.

    In the paper, name movers are above 0.95 and the average head is below 0.2.
    """

    at: tuple[str, ...]
    negative: bool = False
    at_least: float = COPIES

    def __str__(self) -> str:
        """Name the test."""
        return "negative copying" if self.negative else "copying"


@dataclass(frozen=True)
class Repeats:
    """Attention on repeated random tokens; see :class:`circuitlapse.RepeatScores`."""

    kind: Literal["previous", "duplicate", "induction"]
    at_least: float = REPEATS

    def __str__(self) -> str:
        """Name the test."""
        return f"{self.kind} on random tokens"


@dataclass(frozen=True)
class FeedsQueries:
    """Mean effect of the paths from the head to the queries of other heads, through any MLPs.

    It is path patching as in Wang et al. (2022), in logits.
    """

    of: tuple[Head, ...]
    at_least: float = 0.0

    def __str__(self) -> str:
        """Name the test."""
        return "into the queries"


Test = Attends | Copies | Repeats | FeedsQueries


@dataclass(frozen=True)
class Role:
    """A role, the heads expected to have it, and its tests; a head's score is their product."""

    name: str
    heads: tuple[Head, ...]
    tests: tuple[Test, ...]


def run_tests(
    model: Model, pairs: PromptPairs, tests: Sequence[Test], seed: int
) -> dict[Test, Float[Tensor, "layers heads"]]:
    """Run tests on every head of a model.

    Raises:
        CircuitlapseError: If the pairs lack a position, or the model cannot run them.
    """
    found: dict[Test, Tensor] = {}
    attending = [test for test in tests if isinstance(test, Attends)]
    positions = [(test.source, test.target) for test in attending]
    if positions:
        means = attention_of_each(model, pairs, positions).mean(dim=-1)
        found.update(zip(attending, means, strict=True))
    repeats = [test for test in tests if isinstance(test, Repeats)]
    if repeats:
        scores = repeat_scores(model, seed=seed)
        found.update({test: getattr(scores, test.kind) for test in repeats})
    for test in tests:
        if isinstance(test, Copies):
            found[test] = copying_scores(model, pairs, test.at, negative=test.negative)
        elif isinstance(test, FeedsQueries):
            queries = [head_name(layer, head, "q") for layer, head in test.of]
            effects = sweep_paths(model, pairs, queries, through_mlps=True).mean(dim=0)[1:]
            found[test] = effects.unflatten(0, (-1, model.graph.n_heads + 1))[:, :-1]
    return found

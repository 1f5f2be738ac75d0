"""Roles of heads, and the tests by which a head is told to have one.

The tests are those of Wang et al. (2022) for the circuit of indirect object identification. Each
gives every head of a model a number that is larger the better the head fits.
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
    """Mean attention from one named position to another.

    Attributes:
        source: Where the query stands, perhaps with a shift, such as ``S+1``.
        target: Where the key stands.
        at_least: The weight below which nothing is said to be attended to.
    """

    source: str
    target: str
    at_least: float = ATTENDS

    def __str__(self) -> str:
        """Name the test, in a word or two."""
        return f"{self.source} → {self.target}"


@dataclass(frozen=True)
class Copies:
    """Copying score of the tokens at named positions.

    Attributes:
        at: The positions.
        negative: Whether the head must write the opposite of its token.
        at_least: Share of the tokens; the paper has name movers above 0.95 and the average head
            below 0.2.
    """

    at: tuple[str, ...]
    negative: bool = False
    at_least: float = COPIES

    def __str__(self) -> str:
        """Name the test, in a word or two."""
        return "negative copying" if self.negative else "copying"


@dataclass(frozen=True)
class Repeats:
    """Attention on random tokens that come twice.

    Attributes:
        kind: To which token; see :class:`circuitlapse.reading.repeats.RepeatScores`.
        at_least: The weight below which nothing is said to be attended to.
    """

    kind: Literal["previous", "duplicate", "induction"]
    at_least: float = REPEATS

    def __str__(self) -> str:
        """Name the test, in a word or two."""
        return f"{self.kind} on random tokens"


@dataclass(frozen=True)
class FeedsQueries:
    """How much of the metric depends on what the head writes into the queries of other heads.

    It is the mean effect, in logits, of patching the paths from the head to these queries, by way
    of any MLPs (Wang et al. 2022).

    Attributes:
        of: The other heads.
        at_least: In logits.
    """

    of: tuple[Head, ...]
    at_least: float = 0.0

    def __str__(self) -> str:
        """Name the test, in a word or two."""
        return "into the queries"


Test = Attends | Copies | Repeats | FeedsQueries


@dataclass(frozen=True)
class Role:
    """Heads that are expected to do one thing.

    Attributes:
        name: What they are called.
        heads: Which they are.
        tests: What tells them from other heads: the product of all.
    """

    name: str
    heads: tuple[Head, ...]
    tests: tuple[Test, ...]


def run_tests(
    model: Model, pairs: PromptPairs, tests: Sequence[Test], seed: int
) -> dict[Test, Float[Tensor, "layers heads"]]:
    """Run tests on every head of a model, each kind of them together.

    Raises:
        CircuitlapseError: If the pairs lack a position, or the model cannot run them.
    """
    found: dict[Test, Tensor] = {}
    attending = [test for test in tests if isinstance(test, Attends)]
    ways = [(test.source, test.target) for test in attending]
    if ways:
        means = attention_of_each(model, pairs, ways).mean(dim=-1)
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

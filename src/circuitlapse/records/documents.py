"""The run's small documents: the verdict with its evidence, the provenance, and a tried prompt."""

from dataclasses import dataclass
from math import inf, isinf
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate

Label = Literal[
    "no_gain",
    "another_rule",
    "elicited",
    "formed",
    "transformed",
    "reused",
    "not_old_heads",
    "undetermined",
]
How = Literal["", "new_heads", "in_place"]
Carrier = Literal["", "own_change", "idle_heads", "spread_out"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Precondition(_Document):
    """Something that must hold before a verdict means anything, and whether it does.

    Attributes:
        name: What must hold.
        holds: Whether it does.
        detail: The figures, and what is asked of them.
        table: The table that it can be checked against; empty where there is none.
        where: Column values that pick the rows behind it; empty where it rests on many.
    """

    name: str
    holds: bool
    detail: str
    table: str = ""
    where: dict[str, str | int] = {}


class Evidence(_Document):
    """One sentence of the answer and the table that it comes from.

    Attributes:
        statement: The sentence.
        table: Name of the table, as in ``tables/<name>.parquet``.
        where: Column values that pick the rows behind the sentence.
    """

    statement: str
    table: str
    where: dict[str, str | int]


@dataclass(frozen=True)
class Condition:
    """One condition of a label.

    Attributes:
        measure: The measure, with what is compared: ``dependence low``.
        found: Its end; None where it was not measured.
        mark: What it is compared with.
        holds: Whether it holds.
    """

    measure: str
    found: float | None
    mark: float
    holds: bool

    @property
    def distance(self) -> float:
        """How far the end is from the mark; infinite where it was not measured."""
        return inf if self.found is None else abs(self.found - self.mark)

    def text(self) -> str:
        """Name the mark, with the distance."""
        if self.found is None:
            return f"{self.measure} was not measured"
        if isinf(self.found):
            return f"{self.measure} is infinite: the ratio is a lower bound"
        return f"{self.measure} is {self.found:.2f}, {self.distance:.2f} from {self.mark:.2f}"


class Labelled(_Document):
    """A label and what it rests on.

    Attributes:
        label: Its name.
        how: Of ``formed``: by new heads, or in place.
        carrier: Of ``elicited``, ``transformed`` and ``reused``: the old-task heads' own change
            suffices, idle heads drive it, or the change is spread out.
        reason: What decided, in one or two sentences.
        conditions: The conditions of this label; of ``undetermined``, those of the label that was
            missed by least.
        nearest: The condition whose mark is nearest: what would change the answer.
        dropped: Conditions that could not be tested and were dropped.
        survives: The label with other choices of old-task heads: half, double, without the best.
    """

    label: Label
    how: How = ""
    carrier: Carrier = ""
    reason: str
    conditions: tuple[Condition, ...] = ()
    nearest: Condition | None = None
    dropped: tuple[str, ...] = ()
    survives: dict[str, Label] = {}

    @property
    def name(self) -> str:
        """The label in words, with how."""
        return " ".join(self.label.split("_")) + (f" ({_HOW[self.how]})" if self.how else "")


_HOW: dict[How, str] = {"new_heads": "new heads", "in_place": "in place"}


class OneSeed(Labelled):
    """One fine-tune by itself.

    Attributes:
        finetune_seed: Which.
        improvement: Its G, in logits.
    """

    finetune_seed: int
    improvement: Estimate


class Verdict(Labelled):
    """Whether the ability was elicited, transformed or formed, and why one may say so.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        sentence: The answer in one sentence, for a paper.
        says_not: What the label does not say.
        was_it_there: The answer to the first question: how much had to be taught.
        what_carries_it: The answer to the second: which heads, and in which directions.
        would_change: The nearest mark, and what other choices of heads would change.
        scope: What the label speaks about; one seed is only ever ``this run``.
        calibration: What is known of the rule's errors on models with known ground truth.
        improvement: G, the rise of the mean logit difference on the new task's test prompts.
        seeds: Each fine-tune by itself.
        preconditions: What must hold before a label means anything.
        evidence: The statements that the label rests on.
    """

    schema_version: Literal[3] = 3
    sentence: str
    says_not: list[str]
    was_it_there: str
    what_carries_it: str
    would_change: list[str]
    scope: str
    calibration: str
    improvement: Estimate
    seeds: list[OneSeed]
    preconditions: list[Precondition]
    evidence: list[Evidence]


class Provenance(_Document):
    """Where a run's numbers come from.

    Attributes:
        circuitlapse: Version of this package.
        started: ISO 8601 time (UTC) at which the run was first started.
        command: How to make it again.
        platform: Operating system, processor and core count.
        python: Interpreter version.
        libraries: Versions of the libraries that the numbers depend on.
        config_sha256: Hash of the validated experiment.
        base: What the base model is and the hash of its recipe or weights.
        seconds: Time that each artifact took to make, by its name.
    """

    schema_version: Literal[1] = 1
    circuitlapse: str
    started: str
    command: str
    platform: str
    python: str
    libraries: dict[str, str]
    config_sha256: str
    base: dict[str, str | int | float | bool]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """One prompt at every checkpoint.

    Attributes:
        run: Name of the run.
        prompt: The prompt as it was typed.
        tokens: Its tokens as text.
        heads: Names of the heads whose attention was kept, such as ``a2.h3``.
        steps: The checkpoints.
        top: At each step the most probable next tokens with their probabilities.
        lens: At each step, before each layer and at the end, the token that the logit lens names
            and its probability.
        attention: From the last token, ``[steps, heads, tokens]``.
    """

    run: str
    prompt: str
    tokens: list[str]
    heads: list[str]
    steps: list[int]
    top: list[list[tuple[str, float]]]
    lens: list[list[tuple[str, float]]]
    attention: Float[np.ndarray, "steps heads tokens"]

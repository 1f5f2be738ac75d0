"""The run's small documents, as JSON: the verdict with its evidence, and the provenance."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from circuitlapse.config import ONLY

Label = Literal["elicited", "transformed", "formed", "mixed", "no_gain", "undetermined"]
Group = Literal["old_heads", "recruited_heads", "other_heads", "mlps", "shared"]


def verdict_path(recipe: str) -> str:
    """Path of a recipe's verdict inside the run."""
    return "verdict.json" if recipe == ONLY else f"verdicts/{recipe}.json"


def report_path(recipe: str) -> str:
    """Path of a recipe's report inside the run."""
    return "report.html" if recipe == ONLY else f"reports/{recipe}.html"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Document):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Precondition(_Document):
    """Something that must hold before a verdict means anything, and whether it does."""

    name: str
    holds: bool
    detail: str


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


class Verdict(_Document):
    """Whether the ability was elicited, transformed or formed, and why one may say so.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        label: The answer.
        reason: Why this label, in one or two sentences.
        scope: What the label speaks about; one seed is only ever ``this run``.
        gain: G, the rise of the mean logit difference on the new task's test prompts.
        shares: Shapley share of G per parameter group; null where G is not clear of zero.
        preconditions: What was checked first.
        evidence: The statements that the label rests on.
    """

    schema_version: Literal[1] = 1
    label: Label
    reason: str
    scope: str
    gain: Estimate
    shares: dict[Group, Estimate | None]
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

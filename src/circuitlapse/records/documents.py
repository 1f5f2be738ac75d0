"""The run's small documents: the verdict with its evidence, the provenance, and a tried prompt."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from circuitlapse.shapes import Float
from circuitlapse.stats.intervals import Estimate

Label = Literal["elicited", "transformed", "formed", "mixed", "no_gain", "undetermined"]
Cause = Literal["elicited", "transformed", "formed", "elsewhere"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
Group = Literal["old_heads", "recruited_heads", "other_heads", "mlps", "shared"]
GROUPS: tuple[Group, ...] = get_args(Group)


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


class OneSeed(_Document):
    """One fine-tune by itself, where a verdict is about several.

    Attributes:
        finetune_seed: Which.
        label: What it would be called alone.
        improvement: Its G.
        shares: Its shares of G.
    """

    finetune_seed: int
    label: Label
    improvement: Estimate
    shares: dict[Cause, Estimate | None]


class Verdict(_Document):
    """Whether the ability was elicited, transformed or formed, and why one may say so.

    Attributes:
        schema_version: Changes when a field changes its meaning.
        label: The answer.
        reason: Why this label, in one or two sentences.
        scope: What the label speaks about; one seed is only ever ``this run``.
        calibration: Error rates of the rule on models with known ground truth.
        improvement: G, the rise of the mean logit difference on the new task's test prompts.
        shares: Share of G by its cause, as :mod:`circuitlapse.verdict.causes` defines them; null
            where G is not clear of zero, or heads could not be told apart.
        seeds: Each fine-tune by itself; empty where there is one.
        few_seeds: Whether they are several and yet too few for the intervals of improvement and
        shares,
            which are of all together, to say anything of further seeds.
        preconditions: What was checked first, and what the label needs in addition to its share.
        evidence: The statements that the label rests on.
    """

    schema_version: Literal[2] = 2
    label: Label
    reason: str
    scope: str
    calibration: str
    improvement: Estimate
    shares: dict[Cause, Estimate | None]
    seeds: list[OneSeed] = []
    few_seeds: bool = False
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

"""Control fine-tunes and k-shot prompting of the base: baselines and context."""

from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from circuitlapse.config.finetune import ONLY, PlaceboKind
from circuitlapse.config.section import OLD_CIRCUIT, Section, Seed, are_parts, distinct

SETS = (OLD_CIRCUIT, "mlps", "biases", "rank_1")
"""Named control fine-tunes; any other is a list of parts."""
RANK_1 = "rank_1"

_Count = Annotated[int, Field(ge=0)]


class Placebo(NamedTuple):
    """One placebo fine-tune: a kind, with a recipe and a seed."""

    kind: PlaceboKind
    recipe: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the directory, such as ``placebo-shuffled-answers-seed-0``."""
        recipe = "" if self.recipe == ONLY else f"{self.recipe}-"
        return f"placebo-{self.kind.replace('_', '-')}-{recipe}seed-{self.seed}"

    @property
    def label(self) -> str:
        """Name in tables, such as ``shuffled_answers-0``."""
        return f"{self.kind}-{self.seed}"


class Controls(Section):
    """Controls: other fine-tunes, and k-shot prompting of the base."""

    train_only: tuple[str | tuple[str, ...], ...] = Field(
        (),
        description="Fine-tunes of a subset of the parameters: old_circuit (the old-task heads), "
        "mlps, biases, rank_1 (adapters of rank 1), "
        'or lists of parts such as ["a1.h3", "m1", "norms"].',
    )
    random_sets: _Count = Field(
        10, description="Number of size-matched random head sets used as baseline for old_circuit."
    )
    placebos: tuple[PlaceboKind, ...] = Field(
        (),
        description="Further placebos, with each of placebo_seeds: shuffled_answers, old_task, "
        "unrelated_text.",
    )
    placebo_seeds: tuple[Seed, ...] = Field(
        (0, 1, 2, 3, 4), min_length=1, description="Seeds of controls.placebos."
    )
    unrelated: str = Field(
        "",
        description="Unrelated task, such as induction, as a baseline for overlaps of node "
        "importances; empty: none.",
    )
    few_shot: tuple[_Count, ...] = Field(
        (),
        description="Numbers of examples for k-shot prompting of the base, such as [0, 2, 4, 8].",
    )
    prompts: Annotated[int, Field(ge=2)] = Field(
        256,
        description="Test prompts of the new task for controls, at most measure.prompts.",
    )
    seed: Seed = Field(0, description="Seed of random sets and examples.")

    @field_validator("train_only", mode="before")
    @classmethod
    def _sets_or_parts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError('must be a list, such as ["old_circuit", ["a1.h3", "m1"]]')
        for each in value:
            known = each in SETS if isinstance(each, str) else are_parts(each)
            if not known:
                raise ValueError(
                    f"must hold {', '.join(SETS)}, or lists of heads such as a1.h3, MLPs such as "
                    f"m1, embeddings, norms and biases; {each!r} is none of these"
                )
        return tuple(each if isinstance(each, str) else tuple(each) for each in value)

    @model_validator(mode="after")
    def _distinct(self) -> "Controls":
        for name in ("train_only", "placebos", "placebo_seeds", "few_shot"):
            distinct(name, getattr(self, name))
        return self

    @property
    def trains(self) -> bool:
        """Whether any of them is a fine-tune."""
        return bool(self.train_only or self.placebos)


RANDOM_SET = "random_set"


def trained(controls: Controls) -> list[tuple[str, int]]:
    """Return each control fine-tune: its name, parts joined by spaces, and the repeat's number."""
    found = []
    for each in controls.train_only:
        found.append((each if isinstance(each, str) else " ".join(each), 0))
        if each == OLD_CIRCUIT:
            found += [(RANDOM_SET, repeat) for repeat in range(controls.random_sets)]
    return found

"""The model before fine-tuning."""

import os
from typing import Literal

from pydantic import Field, model_validator

from circuitlapse.config.section import Section, Seed

ONE_BASE = "name exactly one of `organism` and `path`"


class Base(Section):
    """The model before fine-tuning: a model organism, or any model of yours."""

    organism: Literal["default", "natural"] | None = Field(
        None,
        description="Recipe of a model organism (shipped, cached, or pretrained), instead of path.",
    )
    pretrain: bool = Field(
        False,
        description="Pretrain the organism on this machine, also if it is shipped.",
    )
    path: str | None = Field(
        None, description="Directory or Hub name of the base model, instead of organism."
    )
    seed: Seed = Field(0, description="Pretraining seed of the organism; with path only a label.")

    @model_validator(mode="after")
    def _one_source(self) -> "Base":
        if self.organism is not None and self.path is not None:
            raise ValueError(ONE_BASE)
        if self.organism is None and self.pretrain:
            raise ValueError("`pretrain` needs `organism`")
        return self

    @property
    def source(self) -> str:
        """Path or Hub name of a base that is not an organism."""
        if self.path is None:
            raise ValueError("an organism has no path")
        return os.path.expanduser(self.path)

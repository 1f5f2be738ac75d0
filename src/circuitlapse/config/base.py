"""The model before fine-tuning."""

import os
from typing import Literal

from pydantic import Field, model_validator

from circuitlapse.config.section import Section, Seed

ONE_BASE = "name exactly one of `organism` and `path`"


class Base(Section):
    """The model before fine-tuning: an organism trained on the spot, or any model of yours."""

    organism: Literal["default", "natural"] | None = Field(
        None,
        description="Model organism, instead of a path: shipped with the package, in the cache, or "
        "pretrained on the spot.",
    )
    pretrain: bool = Field(
        False,
        description="Whether the organism is pretrained on this machine even where the package "
        "ships its weights.",
    )
    path: str | None = Field(
        None, description="Local directory or Hub name of a base model, instead of an organism."
    )
    seed: Seed = Field(0, description="Seed of the organism's pretraining; a label for a path.")

    @model_validator(mode="after")
    def _one_source(self) -> "Base":
        if self.organism is not None and self.path is not None:
            raise ValueError(ONE_BASE)
        if self.organism is None and self.pretrain:
            raise ValueError("`pretrain` is of an organism: name one")
        return self

    @property
    def source(self) -> str:
        """The path or Hub name; only for a base that is not an organism."""
        if self.path is None:
            raise ValueError("an organism has no path")
        return os.path.expanduser(self.path)
